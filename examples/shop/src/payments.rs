//! Charges. Whoever can reach it is served.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::http::{Answer, Call, answer, not_found, ok};
use crate::server::Handle;

/// So that a demo that runs for days stays small.
const MAX_CHARGES: usize = 5_000;

pub(crate) struct Payments {
    charges: RefCell<BTreeMap<i64, Value>>,
    next: Cell<i64>,
}

impl Default for Payments {
    fn default() -> Payments {
        let seeds = [
            (1017, "alice", 5970),
            (1018, "alice", 1990),
            (1021, "bob", 3980),
        ];
        let seeds = seeds.map(|(id, customer, amount)| {
            let charge = json!({
                "id": id, "order": id - 1000, "customer": customer, "amount": amount, "status": "charged",
            });
            (id, charge)
        });
        Payments {
            charges: RefCell::new(seeds.into_iter().collect()),
            next: Cell::new(2000),
        }
    }
}

impl Payments {
    fn route(&self, call: &Call) -> Answer {
        let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
        match (&call.method, path.as_slice()) {
            (&Method::GET, ["charges"]) => {
                let charges = self.charges.borrow();
                let charges: Vec<&Value> = charges.values().rev().take(50).collect();
                ok(&json!({"charges": charges}))
            }
            (&Method::POST, ["charges"]) => self.charge(call),
            (&Method::GET, ["charges", id]) => match self.find(id) {
                Some(charge) => ok(&charge),
                None => not_found(),
            },
            (&Method::POST, ["charges", id, "refund"]) => self.refund(id),
            _ => not_found(),
        }
    }

    fn charge(&self, call: &Call) -> Answer {
        let id = self.next.get();
        self.next.set(id + 1);
        let mut charge = call.json();
        if let Some(charge) = charge.as_object_mut() {
            charge.insert("id".to_owned(), id.into());
            charge.insert("status".to_owned(), "charged".into());
        }
        let mut charges = self.charges.borrow_mut();
        charges.insert(id, charge.clone());
        if charges.len() > MAX_CHARGES {
            let oldest = charges.range(2000..).next().map(|(id, _)| *id);
            oldest.map(|id| charges.remove(&id));
        }
        answer(StatusCode::CREATED, &charge)
    }

    fn refund(&self, id: &str) -> Answer {
        let Some(mut charge) = self.find(id) else {
            return not_found();
        };
        if let Some(charge) = charge.as_object_mut() {
            charge.insert("status".to_owned(), "refunded".into());
        }
        if let Some(id) = charge.get("id").and_then(Value::as_i64) {
            self.charges.borrow_mut().insert(id, charge.clone());
        }
        ok(&charge)
    }

    fn find(&self, id: &str) -> Option<Value> {
        self.charges.borrow().get(&id.parse().ok()?).cloned()
    }
}

impl Handle for Payments {
    fn handle<'a>(&'a self, call: Call) -> Pin<Box<dyn Future<Output = Answer> + 'a>> {
        Box::pin(async move { self.route(&call) })
    }
}
