//! Server-sent events (WHATWG HTML §9.2), as far as the API sends them.

/// Longest message that is kept; a longer one is dropped whole.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Its type; empty for the usual one.
    pub(crate) event: String,
    pub(crate) data: String,
}

/// Puts chunks together to messages.
#[derive(Default)]
pub(crate) struct Reader {
    buffer: Vec<u8>,
    event: String,
    data: String,
}

impl Reader {
    /// The messages that this chunk completes.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Vec<Message> {
        self.buffer.extend_from_slice(chunk);
        let mut messages = Vec::new();
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            messages.extend(self.line(line.trim_end_matches(['\n', '\r'])));
        }
        if self.buffer.len() > MAX_MESSAGE_BYTES {
            self.buffer.clear();
        }
        messages
    }

    fn line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            let message = Message {
                event: std::mem::take(&mut self.event),
                data: std::mem::take(&mut self.data),
            };
            return (!message.data.is_empty()).then_some(message);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" if self.data.len() + value.len() <= MAX_MESSAGE_BYTES => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // Comments (keep-alive), ids and retry times mean nothing here.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_together_from_any_chunks() {
        let text = b": keep-alive\n\ndata: {\"a\":1}\n\nevent: missed\ndata: 7\r\n\r\n";
        for size in 1..text.len() {
            let mut reader = Reader::default();
            let messages: Vec<Message> = text
                .chunks(size)
                .flat_map(|chunk| reader.push(chunk))
                .collect();
            assert_eq!(
                messages,
                [
                    Message {
                        event: String::new(),
                        data: "{\"a\":1}".to_owned()
                    },
                    Message {
                        event: "missed".to_owned(),
                        data: "7".to_owned()
                    },
                ],
                "{size}"
            );
        }
    }
}
