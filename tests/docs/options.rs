//! Flags and arguments of a clap command as rows of a table.

use clap::{Arg, ArgAction, Command};

/// A number that no bounded setting takes, and every type of a setting holds that is not bounded by its type.
const FAR_TOO_MUCH: &str = "2000000000";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id: String,
    /// `--flag <VALUE>`, or the argument's name.
    pub name: String,
    pub variable: Option<String>,
    pub default: Option<String>,
    pub value_name: Option<String>,
    pub range: Option<String>,
    pub meaning: String,
}

/// All that a command takes and shows in its help, but for help and version.
pub fn rows(command: &Command) -> Vec<Row> {
    let all = command.get_arguments();
    let shown = all.filter(|arg| !arg.is_hide_set() && !["help", "version"].contains(&id(arg)));
    shown.map(|arg| row(command, arg)).collect()
}

fn id(arg: &Arg) -> &str {
    arg.get_id().as_str()
}

fn row(command: &Command, arg: &Arg) -> Row {
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let value_name = takes_value.then(|| {
        let names = arg.get_value_names().and_then(<[_]>::first);
        names.map_or_else(|| id(arg).to_uppercase(), ToString::to_string)
    });
    let help = arg.get_long_help().or_else(|| arg.get_help());
    let help = help.map(|help| help.to_string().replace('\n', " "));
    let (mut meaning, stated_default) = split_default(&help.unwrap_or_default());
    let parsed = arg.get_default_values().iter();
    let parsed: Vec<String> = parsed
        .map(|it| it.to_string_lossy().into_owned())
        .filter(|it| !it.is_empty())
        .collect();
    let default = match (stated_default, takes_value && !parsed.is_empty()) {
        (Some(stated), _) => Some(escaped(&stated)),
        (None, true) => Some(format!("`{}`", parsed.join(","))),
        (None, false) => None,
    };
    meaning = escaped(&meaning);
    if let Some(values) = possible_values(arg) {
        meaning = format!("{} {values}", with_stop(&meaning));
    }
    let conflicts = command.get_arg_conflicts_with(arg);
    let conflicts = conflicts.into_iter().filter(|other| !other.is_hide_set());
    let conflicts: Vec<String> = conflicts
        .map(|other| format!("`{}`", flag(other)))
        .collect();
    if !conflicts.is_empty() {
        meaning = format!(
            "{} Not together with {}.",
            with_stop(&meaning),
            conflicts.join(", ")
        );
    }
    let mut name = match &value_name {
        Some(value) if arg.is_positional() => format!("<{value}>"),
        Some(value)
            if arg
                .get_num_args()
                .is_some_and(|count| count.min_values() == 0) =>
        {
            format!("{}[=<{value}>]", flag(arg))
        }
        Some(value) => format!("{} <{value}>", flag(arg)),
        None => flag(arg),
    };
    if arg.is_positional() && (matches!(arg.get_action(), ArgAction::Append) || many(arg)) {
        name.push_str("...");
    }
    Row {
        id: id(arg).to_owned(),
        name,
        variable: arg.get_env().map(|it| it.to_string_lossy().into_owned()),
        default,
        value_name,
        range: range(command, arg),
        meaning: with_stop(&meaning),
    }
}

fn many(arg: &Arg) -> bool {
    arg.get_num_args()
        .is_some_and(|count| count.max_values() > 1)
}

fn flag(arg: &Arg) -> String {
    match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (None, Some(long)) => format!("--{long}"),
        (Some(short), None) => format!("-{short}"),
        (None, None) => {
            let names = arg.get_value_names().and_then(<[_]>::first);
            format!(
                "<{}>",
                names.map_or_else(|| id(arg).to_uppercase(), ToString::to_string)
            )
        }
    }
}

/// Help that states a default which the parser does not know, in brackets at its end.
fn split_default(help: &str) -> (String, Option<String>) {
    let help = help.trim().trim_end_matches('.');
    let stated = help
        .strip_suffix(']')
        .and_then(|rest| rest.rsplit_once("[default: "));
    match stated {
        Some((before, default)) => (before.trim().to_owned(), Some(default.to_owned())),
        None => (help.to_owned(), None),
    }
}

fn possible_values(arg: &Arg) -> Option<String> {
    let values = arg.get_possible_values();
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let shown = values.iter().filter(|value| !value.is_hide_set());
    let shown: Vec<String> = shown
        .map(|value| match value.get_help() {
            Some(help) => {
                let help = help.to_string();
                format!(
                    "`{}`: {}",
                    value.get_name(),
                    escaped(help.trim_end_matches('.'))
                )
            }
            None => format!("`{}`", value.get_name()),
        })
        .collect();
    let separator = if shown.iter().any(|it| it.contains(": ")) {
        "; "
    } else {
        ", "
    };
    (takes_value && !shown.is_empty()).then(|| format!("One of {}.", shown.join(separator)))
}

/// What a number may be, as the parser says to one that is far too large.
fn range(command: &Command, arg: &Arg) -> Option<String> {
    let long = arg.get_long()?;
    let line = [
        command.get_name().to_owned(),
        format!("--{long}={FAR_TOO_MUCH}"),
    ];
    let error = command
        .clone()
        .try_get_matches_from(line)
        .err()?
        .to_string();
    let (_, range) = error.split_once(" is not in ")?;
    let (low, high) = range.lines().next()?.split_once("..=")?;
    Some(between(low, high))
}

/// As [`range`], of settings that a service checks after it has parsed them.
pub fn range_of_check(message: &str) -> Option<String> {
    let (_, range) = message.split_once("; it must be ")?;
    let (low, high) = range.split_once(" to ")?;
    Some(between(low, high))
}

/// A line that [`range_of_check`] may learn from.
pub fn far_too_much(long: &str) -> String {
    format!("--{long}={FAR_TOO_MUCH}")
}

fn between(low: &str, high: &str) -> String {
    format!(
        "{} to {}",
        grouped(low),
        grouped(high.trim_end_matches('.'))
    )
}

/// 1000000 as 1,000,000.
fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn with_stop(text: &str) -> String {
    match text.chars().last() {
        None | Some('.') => text.to_owned(),
        Some(_) => format!("{text}."),
    }
}

/// Text of clap as Markdown in a table's cell; what stands in backticks is left as it is.
pub fn escaped(text: &str) -> String {
    let mut parts = text.split('`').enumerate().map(|(at, part)| match at % 2 {
        0 => part
            .replace('<', "&lt;")
            .replace('*', r"\*")
            .replace('_', r"\_"),
        _ => part.to_owned(),
    });
    let first = parts.next().unwrap_or_default();
    let text = parts.fold(first, |text, part| text + "`" + &part);
    text.replace('|', r"\|")
}
