// The owners of sequences. A trust domain is all clients with one API key; without keys, with one key that has no
// name, or with shared prefixes there is one domain for everybody, whose name is empty.
#pragma once

#include <string>
#include <tuple>

namespace duo {

/// A session's name within its owner's domain: the same name of another owner is another session.
struct SessionId {
  std::string owner;
  std::string name;  // empty = no session

  bool operator==(const SessionId&) const = default;
  bool operator<(const SessionId& other) const { return std::tie(owner, name) < std::tie(other.owner, other.name); }
};

/// The one who asks: the name of what they own, and whether status and metrics show them what others own.
struct Caller {
  std::string owner;
  bool sees_all = false;

  bool Sees(const std::string& other) const { return sees_all || other == owner; }
};

}  // namespace duo
