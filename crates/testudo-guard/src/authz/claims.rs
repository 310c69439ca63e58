//! What a declared claim is to policies. The bundle names claims without types; a claim is a string
//! unless policies use it as a list, a number or a truth.

use std::collections::BTreeMap;
use std::sync::Arc;

use cedar_policy_core::ast::{
    BinaryOp, Expr, ExprKind, Literal, UnaryOp, Value as CedarValue, Var,
};
use smol_str::format_smolstr;

use super::context::{string, strings};
use crate::authn::Claim;

/// The type of a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClaimKind {
    /// `String`; integers and truths in a token are read as their text.
    #[default]
    String,
    /// `Long`.
    Long,
    /// `Bool`.
    Bool,
    /// `Set<String>`; a single string in a token is a set of one.
    Strings,
}

/// The claims that conditions use as something else than a string. The first use counts; type
/// checking refuses others that contradict it.
pub fn claim_kinds<'e>(
    conditions: impl IntoIterator<Item = &'e Expr>,
) -> BTreeMap<Arc<str>, ClaimKind> {
    let mut kinds = BTreeMap::new();
    for condition in conditions {
        for expression in condition.subexpressions() {
            for (operand, kind) in uses(expression) {
                if let Some(name) = claim_name(operand) {
                    kinds.entry(name).or_insert(kind);
                }
            }
        }
        if let Some(name) = claim_name(condition) {
            kinds.entry(name).or_insert(ClaimKind::Bool);
        }
    }
    kinds
}

/// The operands of an expression whose type follows from the operator.
fn uses(expression: &Expr) -> Vec<(&Expr, ClaimKind)> {
    match expression.expr_kind() {
        ExprKind::And { left, right } | ExprKind::Or { left, right } => {
            vec![(left, ClaimKind::Bool), (right, ClaimKind::Bool)]
        }
        ExprKind::If { test_expr, .. } => vec![(test_expr, ClaimKind::Bool)],
        ExprKind::UnaryApp { op, arg } => vec![(
            arg,
            match op {
                UnaryOp::Not => ClaimKind::Bool,
                UnaryOp::Neg => ClaimKind::Long,
                UnaryOp::IsEmpty => ClaimKind::Strings,
            },
        )],
        ExprKind::BinaryApp { op, arg1, arg2 } => match op {
            BinaryOp::Less | BinaryOp::LessEq | BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul => {
                vec![(arg1, ClaimKind::Long), (arg2, ClaimKind::Long)]
            }
            BinaryOp::Contains => vec![(arg1, ClaimKind::Strings)],
            BinaryOp::ContainsAll | BinaryOp::ContainsAny => {
                vec![(arg1, ClaimKind::Strings), (arg2, ClaimKind::Strings)]
            }
            BinaryOp::Eq => vec![(arg1, kind_of(arg2)), (arg2, kind_of(arg1))]
                .into_iter()
                .filter_map(|(operand, kind)| Some((operand.as_ref(), kind?)))
                .collect(),
            BinaryOp::In | BinaryOp::GetTag | BinaryOp::HasTag => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// What something is compared with, where that shows.
fn kind_of(expression: &Expr) -> Option<ClaimKind> {
    match expression.expr_kind() {
        ExprKind::Lit(Literal::Long(_)) => Some(ClaimKind::Long),
        ExprKind::Lit(Literal::Bool(_)) => Some(ClaimKind::Bool),
        ExprKind::Set(_) => Some(ClaimKind::Strings),
        _ => None,
    }
}

/// `tenant` of `principal.claims.tenant` and of `context.user.claims.tenant`.
fn claim_name(expression: &Expr) -> Option<Arc<str>> {
    let (claims, name) = attribute(expression)?;
    let (user, attribute_name) = attribute(claims)?;
    let is_user = match user.expr_kind() {
        ExprKind::Var(Var::Principal) => true,
        _ => attribute(user).is_some_and(|(base, name)| {
            name == "user" && matches!(base.expr_kind(), ExprKind::Var(Var::Context))
        }),
    };
    (is_user && attribute_name == "claims").then(|| name.into())
}

fn attribute(expression: &Expr) -> Option<(&Expr, &str)> {
    match expression.expr_kind() {
        ExprKind::GetAttr { expr, attr } => Some((expr, attr)),
        _ => None,
    }
}

impl ClaimKind {
    /// A claim of this kind for Cedar; `None`: the token has something else there.
    pub(super) fn value(self, claim: &Claim) -> Option<CedarValue> {
        Some(match (self, claim) {
            (ClaimKind::String, Claim::String(text)) => string(text.clone()),
            (ClaimKind::String, Claim::Long(number)) => string(format_smolstr!("{number}")),
            (ClaimKind::String, Claim::Bool(truth)) => string(format_smolstr!("{truth}")),
            (ClaimKind::Long, Claim::Long(number)) => CedarValue::from(*number),
            (ClaimKind::Bool, Claim::Bool(truth)) => CedarValue::from(*truth),
            (ClaimKind::Strings, Claim::Strings(texts)) => strings(texts),
            (ClaimKind::Strings, Claim::String(text)) => strings(std::slice::from_ref(text)),
            _ => return None,
        })
    }
}
