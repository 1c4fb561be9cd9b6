//! Finding a Java that is new enough.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;

pub(crate) fn find(needed: u32) -> Result<PathBuf, Error> {
    const MISSING: Error = Error::Missing {
        program: "java",
        hint: "install Java 17 or newer (Debian: apt install openjdk-17-jre-headless) or set JAVA_HOME",
    };
    let java = env::var_os("JAVA_HOME")
        .map(|home| Path::new(&home).join("bin/java"))
        .filter(|java| java.is_file())
        .unwrap_or_else(|| PathBuf::from("java"));
    let asked = Command::new(&java)
        .arg("-version")
        .stdin(Stdio::null())
        .output()
        .map_err(|_| MISSING)?;
    let found = major_version(&String::from_utf8_lossy(&asked.stderr)).ok_or(MISSING)?;
    if found < needed {
        return Err(Error::JavaTooOld {
            java,
            found,
            needed,
        });
    }
    Ok(java)
}

/// From `openjdk version "17.0.15" 2025-04-15`; before Java 9 it was `"1.8.0_452"`.
fn major_version(said: &str) -> Option<u32> {
    let version = said.split("version \"").nth(1)?;
    let mut numbers = version.split(|letter: char| !letter.is_ascii_digit());
    match numbers.next()?.parse().ok()? {
        1 => numbers.next()?.parse().ok(),
        major => Some(major),
    }
}

#[cfg(test)]
mod tests {
    use super::major_version;

    #[test]
    fn versions_old_and_new_are_understood() {
        let said = |version: &str| major_version(&format!("openjdk version \"{version}\" x\nmore"));
        assert_eq!(said("1.8.0_452"), Some(8));
        assert_eq!(said("17.0.15"), Some(17));
        assert_eq!(said("25"), Some(25));
        assert_eq!(said("26-ea"), Some(26));
        assert_eq!(major_version("not java"), None);
    }
}
