// The metrics of LongBench (arXiv:2308.14508, its metrics.py) and the text preparation they share. All are in [0, 1].
// Chinese metrics go by character, where the original cuts words with a dictionary.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace duo {

/// Lower case, without ASCII punctuation and the words a, an, the; single blanks.
std::string NormalizeAnswer(std::string_view text);

/// F1 of the bags of words of both normalised texts.
double QaF1(std::string_view prediction, std::string_view answer);
/// F1 of the bags of characters, without blanks and punctuation of either script, in lower case.
double QaF1ByCharacter(std::string_view prediction, std::string_view answer);

/// ROUGE-L as the Python package rouge 1.0 computes it: sentences are what stands between full stops; the different
/// words of the longest common subsequences of all pairs of sentences, over the different words of either text; F1.
double RougeL(std::string_view prediction, std::string_view answer);
/// The same with every character a word.
double RougeLByCharacter(std::string_view prediction, std::string_view answer);

/// 1 / (number of class names in the prediction) when the answer is among them, else 0. Names that are part of the
/// answer's name do not count.
double Classification(std::string_view prediction, std::string_view answer, const std::vector<std::string>& classes);

/// Share of the numbers in the prediction that are the one of the answer ("Paragraph 7", "段落7", or "7"); 0 without
/// numbers.
double NumberShare(std::string_view prediction, std::string_view answer);

/// Similarity of the first line that looks like code (no back quote, # or //): 2 LCS / (sum of lengths) over
/// characters, rounded to whole hundredths as fuzzywuzzy's ratio is.
double CodeSimilarity(std::string_view prediction, std::string_view answer);

/// The letter of "The correct answer is (B)" or "The correct answer is B", 0 without one (LongBench v2,
/// arXiv:2412.15204).
char ChosenLetter(std::string_view prediction);

}  // namespace duo
