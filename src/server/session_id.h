// The owners of sequences. A trust domain consists of all clients with one API key. Without keys, with a single key
// that has no name, or with shared prefixes, all clients are in one domain, whose name is empty.
#pragma once

#include <string>
#include <tuple>

namespace duo {

/// A session's name within its owner's domain. The same name under another owner is another session.
struct SessionId {
  std::string owner;
  std::string name;  // empty = no session

  bool operator==(const SessionId&) const = default;
  bool operator<(const SessionId& other) const { return std::tie(owner, name) < std::tie(other.owner, other.name); }
};

/// The sender of a request: its domain, and whether status and metrics show it what other domains own.
struct Caller {
  std::string owner;
  bool sees_all = false;

  bool Sees(const std::string& other) const { return sees_all || other == owner; }
};

}  // namespace duo
