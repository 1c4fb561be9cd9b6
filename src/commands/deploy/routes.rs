//! Routes as they are typed: `[ROUTE=]NAME:VERSION[@WEIGHT|@SHARE]`.

use std::collections::BTreeSet;

use quadrille_registry::{ModelId, Role, Route, SHARE_WHOLE, WEIGHT_DEFAULT};

use crate::registry::model_id;

/// A route, perhaps without a name yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    name: Option<String>,
    model: ModelId,
    role: Role,
}

fn asked(
    text: &str,
    role: impl FnOnce(Option<&str>) -> Result<Role, String>,
) -> Result<Asked, String> {
    let (name, rest) = match text.split_once('=') {
        Some((name, rest)) => (Some(name.to_owned()), rest),
        None => (None, text),
    };
    let (model, amount) = match rest.split_once('@') {
        Some((model, amount)) => (model, Some(amount)),
        None => (rest, None),
    };
    Ok(Asked {
        name,
        model: model_id(model)?,
        role: role(amount)?,
    })
}

pub fn live(text: &str) -> Result<Asked, String> {
    asked(text, |amount| {
        let weight = match amount {
            None => WEIGHT_DEFAULT,
            Some(amount) => amount.parse().map_err(|_| {
                format!("the weight {amount:?} is not a whole number; as in diabetes:1@70")
            })?,
        };
        Ok(Role::Live { weight })
    })
}

pub fn canary(text: &str) -> Result<Asked, String> {
    asked(text, |amount| {
        let amount = amount.ok_or("a canary needs its share; as in diabetes:2@10%")?;
        Ok(Role::Canary {
            share: share(amount)?,
        })
    })
}

pub fn shadow(text: &str) -> Result<Asked, String> {
    asked(text, |amount| match amount {
        None => Ok(Role::Shadow),
        Some(_) => Err("a shadow has no share: it scores everything".to_owned()),
    })
}

/// `10%`, `2.5%`: in hundredths of a percent.
fn share(text: &str) -> Result<u32, String> {
    let wrong = || {
        format!("the share {text:?} is not 0% to 100% with at most two decimals; as in 10% or 2.5%")
    };
    let number = text.strip_suffix('%').ok_or_else(wrong)?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || whole.len() > 3 || decimals.len() > 2 {
        return Err(wrong());
    }
    let parse = |part: &str| part.parse::<u32>().map_err(|_| wrong());
    let hundredths = parse(&format!("{decimals:0<2}"))?;
    let share = parse(whole)? * 100 + hundredths;
    match share <= SHARE_WHOLE {
        true => Ok(share),
        false => Err(wrong()),
    }
}

/// Gives names to those without: the role's, numbered from the second on, and nobody else's.
pub fn named(asked: impl Iterator<Item = Asked>) -> Vec<Route> {
    let asked: Vec<Asked> = asked.collect();
    let mut taken: BTreeSet<String> = asked
        .iter()
        .filter_map(|asked| asked.name.clone())
        .collect();
    let mut routes = Vec::new();
    for Asked { name, model, role } in asked {
        let name = name.unwrap_or_else(|| free(role_name(role), &taken));
        taken.insert(name.clone());
        routes.push(Route { name, model, role });
    }
    routes
}

fn free(name: &str, taken: &BTreeSet<String>) -> String {
    let numbered = (2..).map(|number: u32| format!("{name}-{number}"));
    let mut names = [name.to_owned()].into_iter().chain(numbered);
    names.find(|name| !taken.contains(name)).unwrap_or_default()
}

/// A role's route names begin with this when none is given.
pub const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Live { .. } => "live",
        Role::Canary { .. } => "canary",
        Role::Shadow => "shadow",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(routes: &[Asked]) -> Vec<String> {
        let routes = named(routes.iter().cloned());
        routes.into_iter().map(|route| route.name).collect()
    }

    #[test]
    fn routes_are_read_with_their_amounts() {
        assert_eq!(live("m:1").unwrap().role, Role::Live { weight: 100 });
        assert_eq!(live("m:1@30").unwrap().role, Role::Live { weight: 30 });
        for (text, share) in [
            ("10%", 1_000),
            ("2.5%", 250),
            ("0.01%", 1),
            ("100%", 10_000),
            ("0%", 0),
        ] {
            let role = canary(&format!("m:2@{text}")).unwrap().role;
            assert_eq!(role, Role::Canary { share }, "{text}");
        }
        assert_eq!(shadow("x=m:3").unwrap().name.as_deref(), Some("x"));
    }

    #[test]
    fn what_is_no_route_says_what_one_is() {
        for wrong in [
            "m:2",
            "m:2@10",
            "m:2@100.01%",
            "m:2@1.234%",
            "m:2@-1%",
            "m:2@%",
            "m:2@1e1%",
            "m:2@9999999999%",
        ] {
            let error = canary(wrong).unwrap_err();
            assert!(error.contains("10%"), "{wrong}: {error}");
        }
        assert!(live("m:1@x").unwrap_err().contains("whole number"));
        assert!(shadow("m:1@10%").is_err());
        assert!(live("m").unwrap_err().contains("NAME:VERSION"));
    }

    #[test]
    fn names_are_the_roles_numbered_and_nobody_elses() {
        let two = [
            live("m:1").unwrap(),
            live("m:2").unwrap(),
            shadow("m:3").unwrap(),
        ];
        assert_eq!(names(&two), ["live", "live-2", "shadow"]);
        let given = [live("m:1").unwrap(), canary("live=m:2@1%").unwrap()];
        assert_eq!(names(&given), ["live-2", "live"]);
    }
}
