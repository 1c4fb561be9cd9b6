//! `docs/reference/cli.md`: every command of `quadrille`, from its clap definition.

use std::fmt::Write;

use clap::Command;

use crate::{
    generated,
    options::{self, Row},
};

const INTRODUCTION: &str = "\
`quadrille` runs the whole system in one process (`quadrille up`, also without a command) and has the tools around it.
`--help` of each command prints what is below. A flag goes before its environment variable, which goes before the default.

Exit codes, unless a command says otherwise: 0 done, 64 wrong usage or configuration (the message names the setting and the
fix), 1 anything else. Data are printed to standard output and messages to standard error; `--output json` is for scripts.
The flags of the four services are on [another page](configuration.md).
";

const KAFKA: &str = "## Kafka options\n\nEvery command that talks to Kafka takes these:\n\n";
/// A command with the connection's flags that the others share.
const WITH_KAFKA: &str = "doctor";

pub fn page() -> String {
    let mut root = quadrille::command();
    root.build();
    let of_kafka = root.find_subcommand(WITH_KAFKA).expect("a command");
    let of_kafka: Vec<Row> = of_kafka_in(of_kafka);
    let mut commands = Vec::new();
    collect(&root, &mut commands);

    let mut text = INTRODUCTION.to_owned();
    text.push_str("\n| command | what it does |\n| --- | --- |\n");
    for (path, command) in &commands {
        let anchor = path.replace(' ', "-");
        let _ = writeln!(text, "| [`{path}`](#{anchor}) | {} |", about(command));
    }
    text.push('\n');
    text.push_str(KAFKA);
    table(&mut text, &of_kafka);
    for (path, command) in &commands {
        section(&mut text, path, command, &of_kafka);
    }
    generated("Command line", &text)
}

fn of_kafka_in(command: &Command) -> Vec<Row> {
    let ids = command.get_arguments();
    let ids = ids.filter(|arg| arg.get_help_heading() == Some("Kafka"));
    let ids: Vec<&str> = ids.map(|arg| arg.get_id().as_str()).collect();
    let mut rows = options::rows(command);
    rows.retain(|row| ids.contains(&row.id.as_str()));
    rows
}

/// The commands that do something, with their whole names.
fn collect<'a>(command: &'a Command, found: &mut Vec<(String, &'a Command)>) {
    let inner = command.get_subcommands();
    for inner in inner.filter(|it| it.get_name() != "help" && !it.is_hide_set()) {
        if inner.has_subcommands() {
            collect(inner, found);
        } else {
            let path = inner.get_bin_name().unwrap_or(inner.get_name());
            found.push((path.to_owned(), inner));
        }
    }
}

fn about(command: &Command) -> String {
    let about = command.get_about().map(ToString::to_string);
    options::escaped(&about.unwrap_or_default())
}

fn section(text: &mut String, path: &str, command: &Command, of_kafka: &[Row]) {
    let long = command.get_long_about().or_else(|| command.get_about());
    let about = options::escaped(&long.map(ToString::to_string).unwrap_or_default());
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let _ = write!(
        text,
        "\n## `{path}`\n\n{about}\n\n```text\n{usage}\n```\n\n"
    );
    let mut rows = options::rows(command);
    let all = rows.len();
    rows.retain(|row| !of_kafka.contains(row));
    if !rows.is_empty() {
        table(text, &rows);
    }
    if rows.len() < all {
        let _ = writeln!(text, "\nAlso the [Kafka options](#kafka-options).");
    }
    if let Some(after) = command.get_after_help() {
        let _ = write!(text, "\n```text\n{}\n```\n", after.to_string().trim());
    }
}

fn table(text: &mut String, rows: &[Row]) {
    text.push_str("| option | variable | default | meaning |\n| --- | --- | --- | --- |\n");
    for row in rows {
        let variable = row.variable.as_ref().map(|it| format!("`{it}`"));
        let range = row.range.as_ref().map(|it| format!(" Allowed: {it}."));
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {}{} |",
            row.name.replace('|', r"\|"),
            variable.unwrap_or_default(),
            row.default.clone().unwrap_or_default(),
            row.meaning,
            range.unwrap_or_default(),
        );
    }
}
