//! Media types: what a specification declares and what a message says (RFC 9110 sections 8.3, 12.5.1).

/// A media type without parameters, or a range of them, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaRange {
    kind: Box<str>,
    subtype: Box<str>,
}

/// How specific a range is that matches, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Specificity {
    /// `*/*`
    Any,
    /// `application/*`
    Kind,
    /// `application/*+json`
    Suffix,
    /// `application/json`
    Exact,
}

/// How bodies of a media type are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    Json,
    Form,
    Opaque,
}

impl MediaRange {
    /// Reads a key of a Content Object. Parameters (`; charset=utf-8`) do not take part in matching.
    pub fn parse(text: &str) -> Option<MediaRange> {
        let essence = text.split(';').next().unwrap_or_default().trim();
        let (kind, subtype) = essence.split_once('/')?;
        let token = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
        };
        if !token(kind) || !token(subtype) || (kind == "*" && subtype != "*") {
            return None;
        }
        Some(MediaRange {
            kind: kind.to_ascii_lowercase().into(),
            subtype: subtype.to_ascii_lowercase().into(),
        })
    }

    /// Whether it is a range, as opposed to one type.
    pub fn is_wildcard(&self) -> bool {
        self.subtype.contains('*')
    }

    /// How well it matches a message's own type.
    pub(super) fn matches(&self, kind: &str, subtype: &str) -> Option<Specificity> {
        if &*self.kind == "*" {
            return Some(Specificity::Any);
        }
        if !self.kind.eq_ignore_ascii_case(kind) {
            return None;
        }
        if &*self.subtype == "*" {
            return Some(Specificity::Kind);
        }
        if self.subtype.eq_ignore_ascii_case(subtype) {
            return Some(Specificity::Exact);
        }
        let suffix = self.subtype.strip_prefix('*')?;
        let cut = subtype.len().checked_sub(suffix.len())?;
        let end = subtype.get(cut..)?;
        (cut > 0 && end.eq_ignore_ascii_case(suffix)).then_some(Specificity::Suffix)
    }

    /// Whether bodies of this type, or of types in this range, are JSON.
    pub fn is_json(&self) -> bool {
        syntax(&self.kind, &self.subtype) == Syntax::Json
    }

    /// `application/x-www-form-urlencoded`.
    pub fn is_form(&self) -> bool {
        syntax(&self.kind, &self.subtype) == Syntax::Form
    }
}

/// A `Content-Type` split into type, subtype and parameters; `None`: not a media type.
pub(super) fn split(content_type: &str) -> Option<(&str, &str, &str)> {
    let (essence, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    MediaRange::parse(essence).filter(|range| !range.is_wildcard())?;
    let (kind, subtype) = essence.trim().split_once('/')?;
    Some((kind, subtype, parameters))
}

pub(super) fn syntax(kind: &str, subtype: &str) -> Syntax {
    let ends = |suffix: &str| {
        let cut = subtype.len().checked_sub(suffix.len());
        let end = cut.and_then(|cut| subtype.get(cut..));
        end.is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    };
    let json = subtype.eq_ignore_ascii_case("json") || ends("+json");
    if json
        && (kind.eq_ignore_ascii_case("application")
            || kind.eq_ignore_ascii_case("text")
            || ends("+json"))
    {
        Syntax::Json
    } else if kind.eq_ignore_ascii_case("application")
        && subtype.eq_ignore_ascii_case("x-www-form-urlencoded")
    {
        Syntax::Form
    } else {
        Syntax::Opaque
    }
}

/// Whether a charset parameter says anything but UTF-8 (of which ASCII is a part).
pub(super) fn has_foreign_charset(parameters: &str) -> bool {
    parameters.split(';').any(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = value.trim().trim_matches('"');
        name.trim().eq_ignore_ascii_case("charset")
            && !["utf-8", "utf8", "us-ascii"]
                .iter()
                .any(|known| value.eq_ignore_ascii_case(known))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_types() {
        for (range, content_type, expected) in [
            (
                "application/json",
                "application/json",
                Some(Specificity::Exact),
            ),
            (
                "application/json; charset=utf-8",
                "Application/JSON",
                Some(Specificity::Exact),
            ),
            ("application/*", "application/json", Some(Specificity::Kind)),
            (
                "application/*+json",
                "application/vnd.a+json",
                Some(Specificity::Suffix),
            ),
            ("application/*+json", "application/json", None),
            ("application/*+json", "application/+json", None),
            ("*/*", "text/plain", Some(Specificity::Any)),
            ("application/json", "text/json", None),
        ] {
            let (kind, subtype, _) = split(content_type).unwrap_or(("application", "+json", ""));
            let range = MediaRange::parse(range).unwrap();
            assert_eq!(
                range.matches(kind, subtype),
                expected,
                "{range:?} {content_type}"
            );
        }
        for bad in ["", "json", "a/", "/b", "a b/c", "*/json", "*/*"] {
            assert!(split(bad).is_none(), "{bad}");
        }
        assert!(
            MediaRange::parse("application/problem+json")
                .unwrap()
                .is_json()
        );
        assert!(MediaRange::parse("text/json").unwrap().is_json());
        assert!(!MediaRange::parse("application/jsonx").unwrap().is_json());
        assert!(has_foreign_charset(" charset=utf-16"));
        assert!(!has_foreign_charset(" a=b; Charset=\"UTF-8\""));
    }
}
