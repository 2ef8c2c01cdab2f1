//! Reads files of answers: `{"about": .., "cases": [..]}`.

use serde::{Deserialize, de::DeserializeOwned};

#[derive(Deserialize)]
struct File<T> {
    cases: Vec<T>,
}

/// The cases of a file in `tests/golden/`.
pub fn cases<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let file: File<T> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert!(!file.cases.is_empty(), "{path}: no cases");
    file.cases
}
