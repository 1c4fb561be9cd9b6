//! Where a record lies, as text.

/// A record's position as text, from which an id may be made: no other record of the topic ever has it, whatever becomes
/// of the topic between generations. `@` is in no topic's name.
pub fn position_id(topic: &str, partition: i32, offset: i64, generation: u64) -> String {
    match generation {
        0 => format!("{topic}-{partition}-{offset}"),
        _ => format!("{topic}@{generation}-{partition}-{offset}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_as_ever_in_the_first_generation_and_apart_in_each_other() {
        let names = [0, 1, 2].map(|generation| position_id("p.inbox", 3, 42, generation));
        assert_eq!(names, ["p.inbox-3-42", "p.inbox@1-3-42", "p.inbox@2-3-42"]);
    }
}
