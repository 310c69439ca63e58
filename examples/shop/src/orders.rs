//! Orders; charges them at payments.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::http::{Answer, Call, answer, bad_request, not_found, ok};
use crate::peers::Peers;
use crate::server::Handle;

const PRICE: i64 = 1990;
/// Orders with lower numbers are there from the start.
const FIRST_NEW: i64 = 600;
/// So that a demo that runs for days stays small.
const MAX_ORDERS: usize = 5_000;

pub(crate) struct Orders {
    peers: Peers,
    orders: RefCell<BTreeMap<i64, Value>>,
    next: Cell<i64>,
}

impl Orders {
    pub(crate) fn new(peers: Peers) -> Orders {
        // alice's are 17 and 18; bob's is 21. The others are everybody's.
        let seed = |id: i64| {
            let (customer, quantity) = match id {
                17 => ("alice", 3),
                18 => ("alice", 1),
                21 => ("bob", 2),
                _ if id % 2 == 0 => ("carol", id % 4 + 1),
                _ => ("dave", id % 3 + 1),
            };
            let order = json!({
                "id": id, "customer": customer, "product": 3, "quantity": quantity,
                "total": PRICE * quantity, "status": "paid", "charge": id + 1000,
            });
            (id, order)
        };
        Orders {
            peers,
            orders: RefCell::new((1..FIRST_NEW).map(seed).collect()),
            next: Cell::new(FIRST_NEW),
        }
    }

    async fn route(&self, call: Call) -> Answer {
        let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
        match (&call.method, path.as_slice()) {
            // Nobody documented these, nobody removed them.
            (_, ["orders", "export"] | ["orders", "debug", ..] | ["admin", ..]) => self.list(None),
            (&Method::GET, ["orders"]) => self.list(call.query("customerId")),
            (&Method::POST, ["orders"]) => self.create(&call).await,
            (&Method::GET, ["orders", _, id]) => self.one(id),
            (&Method::POST, ["orders", _, id, "cancel"]) => self.cancel(id),
            (&Method::POST, ["orders", _, id, "refund"]) => self.refund(id, &call).await,
            _ => not_found(),
        }
    }

    fn list(&self, customer: Option<&str>) -> Answer {
        let orders = self.orders.borrow();
        let orders: Vec<&Value> = orders
            .values()
            .rev()
            .filter(|order| customer.is_none_or(|name| text(order, "customer") == name))
            .take(50)
            .collect();
        ok(&json!({"orders": orders}))
    }

    fn one(&self, id: &str) -> Answer {
        match self.find(id) {
            Some((_, order)) => ok(&order),
            None => not_found(),
        }
    }

    /// Every field that came is kept, `paid: true` included.
    async fn create(&self, call: &Call) -> Answer {
        let Value::Object(mut order) = call.json() else {
            return bad_request("an object was expected");
        };
        let id = self.next.get();
        self.next.set(id + 1);
        let quantity = order.get("quantity").and_then(Value::as_i64).unwrap_or(1);
        let total = quantity.saturating_mul(PRICE);
        let customer = call.user();
        order.insert("id".to_owned(), id.into());
        order.insert("customer".to_owned(), customer.clone().into());
        order.insert("total".to_owned(), total.into());
        if order.get("paid") != Some(&Value::Bool(true)) {
            let charge = json!({"order": id, "customer": customer, "amount": total});
            match self
                .pay(Method::POST, "/charges", Some(&charge), call)
                .await
            {
                Ok(charge) => order.insert("charge".to_owned(), charge),
                Err(refusal) => return refusal,
            };
        }
        order.insert("status".to_owned(), "paid".into());
        let order = Value::Object(order);
        let mut orders = self.orders.borrow_mut();
        orders.insert(id, order.clone());
        if orders.len() > MAX_ORDERS {
            let oldest = orders.range(100..).next().map(|(id, _)| *id);
            oldest.map(|id| orders.remove(&id));
        }
        answer(StatusCode::CREATED, &order)
    }

    fn cancel(&self, id: &str) -> Answer {
        self.set_status(id, "cancelled")
    }

    async fn refund(&self, id: &str, call: &Call) -> Answer {
        let Some((_, order)) = self.find(id) else {
            return not_found();
        };
        let charge = order.get("charge").and_then(Value::as_i64).unwrap_or(0);
        let path = format!("/charges/{charge}/refund");
        match self.pay(Method::POST, &path, None, call).await {
            Ok(_) => self.set_status(id, "refunded"),
            Err(refusal) => refusal,
        }
    }

    fn set_status(&self, id: &str, status: &str) -> Answer {
        let Some((id, mut order)) = self.find(id) else {
            return not_found();
        };
        if let Some(order) = order.as_object_mut() {
            order.insert("status".to_owned(), status.into());
        }
        self.orders.borrow_mut().insert(id, order.clone());
        ok(&order)
    }

    fn find(&self, id: &str) -> Option<(i64, Value)> {
        let id = id.parse().ok()?;
        Some((id, self.orders.borrow().get(&id)?.clone()))
    }

    /// The id of the charge that payments answers with.
    async fn pay(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        call: &Call,
    ) -> Result<Value, Answer> {
        let refused = |detail: String| {
            let body = json!({"error": "payments did not accept", "detail": detail});
            answer(StatusCode::BAD_GATEWAY, &body)
        };
        match self
            .peers
            .call("payments", method, path, body, &call.headers)
            .await
        {
            Ok((status, charge)) if status.is_success() => {
                Ok(charge.get("id").cloned().unwrap_or(Value::Null))
            }
            Ok((status, _)) => Err(refused(status.to_string())),
            Err(error) => Err(refused(error.to_string())),
        }
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or("")
}

impl Handle for Orders {
    fn handle<'a>(&'a self, call: Call) -> Pin<Box<dyn Future<Output = Answer> + 'a>> {
        Box::pin(self.route(call))
    }
}
