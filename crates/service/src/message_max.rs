//! How large a gRPC message may be, and what the sender of a larger one can do.

/// The largest gRPC message that a service accepts, after decompression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageMax {
    pub bytes: usize,
    /// The setting that raises it, if there is one.
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
