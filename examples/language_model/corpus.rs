//! Words and their numbers, and the text of the test.

use std::collections::HashMap;

/// The vocabulary: unknown words are number 0, the end of a line is number 1.
pub struct Corpus {
    words: Vec<&'static str>,
}

const UNKNOWN: u32 = 0;
const END: u32 = 1;

impl Corpus {
    /// What `train.py` wrote.
    pub fn vendored() -> Self {
        Self { words: include_str!("vocabulary.txt").lines().collect() }
    }

    pub fn words(&self) -> &[&'static str] {
        &self.words
    }

    /// The numbers of the test text's words.
    pub fn test_ids(&self) -> Vec<u32> {
        let numbers: HashMap<_, _> = self.words.iter().zip(0u32..).map(|(word, id)| (*word, id)).collect();
        let id = |word| numbers.get(word).copied().unwrap_or(UNKNOWN);
        let lines = include_str!("test.txt").lines();
        lines.flat_map(|line| tokens(line).map(id).chain([END]).collect::<Vec<_>>()).collect()
    }

    /// Words as text: no space before a mark, and lines where lines end.
    pub fn text(&self, ids: &[u32]) -> String {
        let mut text = String::new();
        for &id in ids {
            let word = self.words[id as usize];
            if id == END {
                text.push('\n');
                continue;
            }
            let mark = word.chars().all(|c| ",.;:?!)".contains(c));
            if !mark && !text.is_empty() && !text.ends_with(['\n', '(']) {
                text.push(' ');
            }
            text.push_str(word);
        }
        text
    }
}

/// Words, with apostrophes and hyphens inside, and single marks.
fn tokens(line: &str) -> impl Iterator<Item = &str> {
    let of_word = |c: char| c.is_alphanumeric() || "_'-".contains(c);
    let mut rest = line.trim_start();
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end =
            if of_word(first) { rest.find(|c| !of_word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        let (token, left) = rest.split_at(end);
        rest = left.trim_start();
        Some(token)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_marks() {
        let line = "And he said, Behold, man's well-beloved (son)!";
        let expected =
            ["And", "he", "said", ",", "Behold", ",", "man's", "well-beloved", "(", "son", ")", "!"];
        assert_eq!(tokens(line).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn most_of_the_test_text_is_known() {
        let corpus = Corpus::vendored();
        let ids = corpus.test_ids();
        let unknown = ids.iter().filter(|id| **id == UNKNOWN).count();
        assert!(ids.len() > 10_000 && unknown * 25 < ids.len(), "{unknown} of {}", ids.len());
        assert!(corpus.text(&ids[..40]).contains(' '));
    }
}
