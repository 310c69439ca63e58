//! `.cedar` files: text with places, and one rule for each policy.

mod bounds;

use std::sync::Arc;

use cedar_policy_core::parser::err::{ParseError, ParseErrors};
use cedar_policy_core::parser::{Loc, parse_policyset};
use miette::Diagnostic as _;
use testudo_guard::authz::Rule;
use testudo_model::PolicyRef;

use super::CompiledPolicy;
use crate::bundle::Bundle;
use crate::config::Config;
use crate::diagnostic::{Diagnostics, Span};

/// One file.
pub(super) struct Source {
    /// Path in the bundle.
    pub(super) file: Arc<str>,
    text: Arc<str>,
    /// Byte offset at which each line begins.
    lines: Vec<usize>,
}

impl Source {
    pub(super) fn new(file: &str, text: &str) -> Self {
        let breaks = text.match_indices('\n').map(|(offset, _)| offset + 1);
        Source {
            file: file.into(),
            lines: std::iter::once(0).chain(breaks).collect(),
            text: text.into(),
        }
    }

    /// The place of a stretch of bytes.
    pub(super) fn span(&self, start: usize, end: usize) -> Span {
        let index = self.lines.partition_point(|line| *line <= start).max(1) - 1;
        let line_start = self.lines.get(index).copied().unwrap_or(0);
        let count = |from, to| {
            self.text
                .get(from..to)
                .map_or(0, |part| part.chars().count())
        };
        let first_line_end = self
            .text
            .get(start..end.max(start))
            .map_or(end, |part| start + part.find('\n').unwrap_or(part.len()));
        Span {
            file: self.file.clone(),
            line: number(index + 1),
            column: number(count(line_start, start) + 1),
            length: number(count(start, first_line_end).max(1)),
        }
    }

    /// The place that Cedar gives, or the beginning of the file.
    pub(super) fn span_of(&self, loc: Option<&Loc>) -> Span {
        loc.map_or_else(|| self.span(0, 1), |loc| self.span(loc.start(), loc.end()))
    }

    /// `permit` or `forbid` there: annotations stand before it.
    pub(super) fn head_of(&self, loc: Option<&Loc>) -> Span {
        let Some(loc) = loc else {
            return self.span(0, 1);
        };
        let text = self.text.get(loc.start()..loc.end()).unwrap_or("");
        let start = effect_offset(text);
        let word = text
            .get(start..)
            .and_then(|rest| rest.find(|character: char| !character.is_alphanumeric()))
            .unwrap_or(1);
        self.span(loc.start() + start, loc.start() + start + word.max(1))
    }

    /// What stands behind the scope of a policy: its clauses and the semicolon.
    pub(super) fn behind_scope(policy: &str) -> &str {
        let start = effect_offset(policy);
        policy
            .get(start..)
            .and_then(|text| text.split_once('('))
            .map_or("", |(_, scope)| after_parenthesis(scope))
    }

    /// Where the last `operator` before `end` stands, if nothing but spaces is between them.
    pub(super) fn operator_before(&self, end: usize, operator: &str) -> Option<Span> {
        let text = self.text.get(..end)?.trim_end();
        let start = text.strip_suffix(operator)?.len();
        Some(self.span(start, text.len()))
    }

    /// The text at a place that Cedar gives.
    pub(super) fn text_of(&self, loc: Option<&Loc>) -> &str {
        loc.and_then(|loc| self.text.get(loc.start()..loc.end()))
            .unwrap_or("")
    }
}

/// The offset of the effect in a policy's text: behind annotations, comments and spaces.
fn effect_offset(text: &str) -> usize {
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if let Some(comment) = rest.strip_prefix("//") {
            rest = comment.split_once('\n').map_or("", |(_, rest)| rest);
        } else if let Some(annotation) = rest.strip_prefix('@') {
            rest = after_annotation(annotation);
        } else {
            return if rest.is_empty() {
                0
            } else {
                text.len() - rest.len()
            };
        }
    }
}

/// What follows `name` or `name("text")`.
fn after_annotation(text: &str) -> &str {
    let name = text
        .find(|character: char| !character.is_alphanumeric() && character != '_')
        .unwrap_or(text.len());
    let rest = text.get(name..).unwrap_or("").trim_start();
    rest.strip_prefix('(').map_or(rest, after_parenthesis)
}

/// What follows the parenthesis that closes the one just opened.
fn after_parenthesis(text: &str) -> &str {
    let mut open = 1;
    let mut in_string = false;
    let mut escaped = false;
    for (offset, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            '(' if !in_string => open += 1,
            ')' if !in_string => open -= 1,
            _ => {}
        }
        if open == 0 {
            return text.get(offset + 1..).unwrap_or("");
        }
    }
    ""
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// All policies of the bundle, in the order of its files and within them.
pub(super) fn read(
    bundle: &Bundle,
    config: &Config,
    diagnostics: &mut Diagnostics,
) -> Vec<CompiledPolicy> {
    let Some((folder, _)) = &config.policies else {
        return Vec::new();
    };
    let prefix = format!("{}/", folder.trim_end_matches('/'));
    let mut policies = Vec::new();
    for (path, file) in &bundle.files {
        let Some(rest) = path.strip_prefix(&prefix) else {
            continue;
        };
        if !rest.ends_with(".cedar") {
            continue;
        }
        let only = rest.split_once('/').map(|(service, _)| service);
        let Ok(text) = std::str::from_utf8(&file.content) else {
            let place = Source::new(path, "").span(0, 1);
            diagnostics.error("policy.syntax", &place, "the file is not UTF-8", None);
            continue;
        };
        let source = Arc::new(Source::new(path, text));
        if let Some(only) = only
            && !config.services.contains_key(only)
        {
            unknown_folder(&source, only, config, diagnostics);
        }
        policies.extend(parse(&source, only, diagnostics));
    }
    policies
}

fn unknown_folder(source: &Source, only: &str, config: &Config, diagnostics: &mut Diagnostics) {
    let names = config.services.keys().map(AsRef::as_ref);
    let hint = super::suggest::nearest(only, names)
        .map(|name| format!("call the folder {name}"))
        .unwrap_or_else(|| {
            "folders here are called like services; policies of the whole mesh stand above them"
                .into()
        });
    diagnostics.error(
        "ref.unknown",
        &source.span(0, 1),
        format!("there is no service {only}, whose policies this folder would hold"),
        hint,
    );
}

fn parse(
    source: &Arc<Source>,
    only: Option<&str>,
    diagnostics: &mut Diagnostics,
) -> Vec<CompiledPolicy> {
    if let Err(excess) = bounds::check(&source.text) {
        let place = source.span(excess.offset, excess.offset + 1);
        diagnostics.error(
            "policy.syntax",
            &place,
            excess.message,
            excess.hint.to_owned(),
        );
        return Vec::new();
    }
    let set = match parse_policyset(&source.text) {
        Ok(set) => set,
        Err(errors) => {
            report(source, &errors, diagnostics);
            return Vec::new();
        }
    };
    for template in set.templates() {
        diagnostics.error(
            "policy.syntax",
            &source.head_of(template.loc()),
            "policy templates are not supported: nothing would fill ?principal or ?resource",
            "name the principal or the resource".to_owned(),
        );
    }
    let mut policies: Vec<_> = set.static_policies().cloned().collect();
    policies.sort_by_key(|policy| policy.loc().map(Loc::start));
    policies
        .into_iter()
        .filter_map(|policy| {
            let place = source.head_of(policy.loc());
            let reference = PolicyRef {
                file: source.file.to_string().into(),
                line: place.line,
            };
            let rule = match Rule::new(policy, reference, only.map(Arc::from)) {
                Ok(rule) => Arc::new(rule),
                Err(error) => {
                    diagnostics.error("policy.syntax", &place, error.to_string(), None);
                    return None;
                }
            };
            Some(CompiledPolicy {
                rule,
                source: source.clone(),
            })
        })
        .collect()
}

fn report(source: &Source, errors: &ParseErrors, diagnostics: &mut Diagnostics) {
    for error in errors.iter() {
        let place = match error {
            ParseError::ToCST(error) => error
                .primary_source_span()
                .map(|span| (span.offset(), span.len())),
            ParseError::ToAST(error) => error
                .labels()
                .and_then(|mut labels| labels.next())
                .map(|label| (label.offset(), label.len())),
        };
        let (start, length) = place.unwrap_or((0, 1));
        let hint = error.help().map(|help| help.to_string()).or_else(|| {
            error
                .labels()
                .and_then(|mut labels| labels.find_map(|label| label.label().map(str::to_owned)))
        });
        diagnostics.error(
            "policy.syntax",
            &source.span(start, start + length),
            error.to_string(),
            hint,
        );
    }
}
