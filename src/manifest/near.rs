//! How far two names are from each other: for "did you mean".

/// Levenshtein's distance between two words.
pub(super) fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, r) in right.iter().enumerate() {
            let above = row[column + 1];
            row[column + 1] = (diagonal + usize::from(l != *r)).min(above + 1).min(row[column] + 1);
            diagonal = above;
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_letters_to_change() {
        for (left, right, letters) in
            [("", "", 0), ("", "abc", 3), ("same", "same", 0), ("replica", "replicas", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!((distance(left, right), distance(right, left)), (letters, letters), "{left} {right}");
        }
    }
}
