// The metrics of LongBench (arXiv:2308.14508, its metrics.py) and the text preparation that they share. All scores are
// in [0, 1]. Chinese metrics compare characters, where the original cuts words with a dictionary.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace duo {

/// Lower-cases the text, removes ASCII punctuation and the words a, an, the, and joins the rest with single blanks.
std::string NormalizeAnswer(std::string_view text);

/// F1 of the bags of words of both normalised texts.
double QaF1(std::string_view prediction, std::string_view answer);
/// F1 of the bags of lower-case characters, without blanks and the punctuation of either script.
double QaF1ByCharacter(std::string_view prediction, std::string_view answer);

/// ROUGE-L as the Python package rouge 1.0 computes it. Sentences end at full stops. The common words are the distinct
/// words of the longest common subsequences of all pairs of sentences. The score is the F1 of the common words against
/// the distinct words of each text.
double RougeL(std::string_view prediction, std::string_view answer);
/// Like RougeL, with every character as a word.
double RougeLByCharacter(std::string_view prediction, std::string_view answer);

/// 1 / (number of class names in the prediction) if the answer is among them, else 0. Class names that are part of the
/// answer's name do not count.
double Classification(std::string_view prediction, std::string_view answer, const std::vector<std::string>& classes);

/// Share of the numbers in the prediction that equal the number in the answer ("Paragraph 7", "段落7", or "7"). 0
/// without numbers.
double NumberShare(std::string_view prediction, std::string_view answer);

/// Similarity to `answer` of the first line of `prediction` that looks like code (no back quote, # or //). It is 2 LCS
/// / (sum of lengths) over characters, rounded to whole hundredths like fuzzywuzzy's ratio.
double CodeSimilarity(std::string_view prediction, std::string_view answer);

/// The letter of "The correct answer is (B)" or "The correct answer is B"; 0 if neither appears (LongBench v2,
/// arXiv:2412.15204).
char ChosenLetter(std::string_view prediction);

}  // namespace duo
