//! How the inputs that a model wants and those that it is offered differ.

use std::fmt;

/// A difference between the inputs of a model and those offered to it, to be shown to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What the model wants and is not offered.
    pub missing: Vec<String>,
    /// What is offered and the model does not know.
    pub extra: Vec<String>,
    /// When nothing is missing or extra: the first place where the order differs.
    pub order: Option<OutOfOrder>,
}

/// A place where the order differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutOfOrder {
    /// Counting from 1.
    pub place: usize,
    pub wanted: String,
    pub offered: String,
}

impl Difference {
    /// The difference, if there is one.
    pub fn between(wanted: &[String], offered: &[String]) -> Option<Self> {
        if wanted == offered {
            return None;
        }
        let missing = without(wanted, offered);
        let extra = without(offered, wanted);
        let same_names = missing.is_empty() && extra.is_empty();
        let at = wanted
            .iter()
            .zip(offered)
            .position(|(wanted, offered)| wanted != offered);
        let order = at.filter(|_| same_names).map(|at| OutOfOrder {
            place: at + 1,
            wanted: wanted[at].clone(),
            offered: offered[at].clone(),
        });
        Some(Self {
            missing,
            extra,
            order,
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = vec![];
        if !self.missing.is_empty() {
            parts.push(format!("missing {}", self.missing.join(", ")));
        }
        if !self.extra.is_empty() {
            parts.push(format!("not known to it {}", self.extra.join(", ")));
        }
        if let Some(OutOfOrder {
            place,
            wanted,
            offered,
        }) = &self.order
        {
            parts.push(format!(
                "the order differs: at place {place} it wants {wanted}, not {offered}"
            ));
        }
        f.write_str(&parts.join("; "))
    }
}

/// What is in `names` and not in `others`; a name that `names` has more often than `others` counts too.
fn without(names: &[String], others: &[String]) -> Vec<String> {
    let mut left: Vec<&String> = others.iter().collect();
    let mut over = names.to_vec();
    over.retain(|name| match left.iter().position(|other| *other == name) {
        Some(at) => {
            left.swap_remove(at);
            false
        }
        None => true,
    });
    over
}
