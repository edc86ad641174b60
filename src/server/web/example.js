// A long example with hidden facts: prose and codes of the kind that the embedded model was made for.

const ADJECTIVES = ["muddy", "golden", "ripe", "green", "quiet", "old", "small"];
const ANIMALS = ["horse", "cow", "farmer", "hen", "goat"];
const VERBS = ["feeds", "grows", "harvests", "watches", "carries"];
const THINGS = ["field", "barn", "plow", "tractor", "seed", "fence"];
const CODES = [["Anna", 48213], ["Boris", 70956], ["Clara", 31870]];
const N_SENTENCES = 640;

export const EXAMPLE_NAME = "example: farm prose with three hidden codes";
export const EXAMPLE_QUESTION = "What is the secret code of Anna?";

/** The steps are coprime to the lengths of the lists, so sentences seldom repeat. */
function sentence(i) {
  const pick = (words, step) => words[(i * step + Math.floor(i / words.length)) % words.length];
  const subject = `${pick(ADJECTIVES, 3)} ${pick(ANIMALS, 2)}`;
  const object = `${pick(ADJECTIVES, 2)} ${pick(THINGS, 5)}`;
  return `The ${subject} ${pick(VERBS, 3)} the ${object}.`;
}

export function exampleText() {
  const sentences = Array.from({ length: N_SENTENCES }, (_, i) => sentence(i) + (i % 6 === 5 ? "\n" : " "));
  CODES.forEach(([name, code], i) => {
    const at = Math.floor(((2 * i + 1) * N_SENTENCES) / (2 * CODES.length));
    sentences[at] = `${sentences[at].trimEnd()} The secret code of ${name} is ${code}.\n`;
  });
  return sentences.join("").trimEnd() + "\n";
}
