// The words that passkeys are made of, shared by the embedded model's book and the training texts.
#pragma once

#include <array>
#include <string_view>

namespace duo {

inline constexpr std::string_view kBookBegin = "This is a very long story book: <book>";
inline constexpr std::string_view kBookEnd = "</book>.\n\n";

inline constexpr std::array<const char*, 26> kNatoWords = {
    "alpha",   "bravo", "charlie", "delta",  "echo",     "foxtrot", "golf",   "hotel",  "india",
    "juliett", "kilo",  "lima",    "mike",   "november", "oscar",   "papa",   "quebec", "romeo",
    "sierra",  "tango", "uniform", "victor", "whiskey",  "xray",    "yankee", "zulu"};

inline constexpr std::array<const char*, 20> kOrdinals = {
    "first",     "second",    "third",       "fourth",     "fifth",      "sixth",      "seventh",
    "eighth",    "ninth",     "tenth",       "eleventh",   "twelfth",    "thirteenth", "fourteenth",
    "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth", "twentieth"};

}  // namespace duo
