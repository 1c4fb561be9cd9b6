//! How large a message a service takes, and what the sender of a larger one can do.

/// The largest message that a service takes by gRPC, uncompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageMax {
    pub bytes: usize,
    /// What raises it; none where nothing does.
    pub setting: Option<&'static str>,
}

impl Default for MessageMax {
    /// gRPC's own.
    fn default() -> Self {
        MessageMax {
            bytes: 4 << 20,
            setting: None,
        }
    }
}

impl MessageMax {
    /// What the sender of a larger one can do.
    pub(crate) fn fix(self) -> String {
        match self.setting {
            None => "send less at once".to_owned(),
            Some(setting) => format!("send less at once, or raise {setting}"),
        }
    }
}
