//! Products and their prices.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::Pin;

use http::Method;
use serde_json::{Value, json};

use crate::http::{Answer, Call, bad_request, not_found, ok};
use crate::server::Handle;

/// Products on one page of the export.
const EXPORT_PAGE: usize = 150;
const DESCRIPTION: &str =
    "Made to last, tested by hand, delivered within two days and repaired for free for ten years. ";

pub(crate) struct Catalog {
    products: RefCell<BTreeMap<i64, Value>>,
}

impl Default for Catalog {
    fn default() -> Catalog {
        let products = [
            (1, "Lamp", 4900),
            (2, "Teapot", 3200),
            (3, "Umbrella", 1990),
            (4, "Notebook", 450),
            (5, "Backpack", 7900),
            (6, "Bicycle bell", 890),
        ];
        let products = products.map(|(id, name, price)| {
            let product = json!({"id": id, "name": name, "price": price, "stock": 100});
            (id, product)
        });
        Catalog {
            products: RefCell::new(products.into_iter().collect()),
        }
    }
}

impl Catalog {
    fn route(&self, call: &Call) -> Answer {
        let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
        match (&call.method, path.as_slice()) {
            (&Method::GET, ["products"]) => self.list(call),
            (&Method::GET, ["products", "export"]) => self.export(call),
            (&Method::GET, ["products", id]) => self.one(id),
            (&Method::PUT, ["products", id]) => self.update(id, call),
            // Left over from the first version; never documented.
            (&Method::DELETE, ["products", id]) => self.one(id),
            _ => not_found(),
        }
    }

    fn list(&self, call: &Call) -> Answer {
        let limit = call.query("limit").and_then(|text| text.parse().ok());
        let wanted = call.query("q").unwrap_or_default().to_lowercase();
        let products = self.products.borrow();
        let products: Vec<&Value> = products
            .values()
            .filter(|product| name_of(product).to_lowercase().contains(&wanted))
            .take(limit.unwrap_or(20))
            .collect();
        ok(&json!({"products": products}))
    }

    /// A page of the whole list, with the long texts that the shop itself does not show.
    fn export(&self, call: &Call) -> Answer {
        let page: i64 = call
            .query("page")
            .and_then(|text| text.parse().ok())
            .unwrap_or(1);
        let products = self.products.borrow();
        let products: Vec<Value> = products
            .values()
            .cycle()
            .take(EXPORT_PAGE)
            .cloned()
            .map(|mut product| {
                if let Some(product) = product.as_object_mut() {
                    product.insert("description".to_owned(), DESCRIPTION.repeat(12).into());
                }
                product
            })
            .collect();
        ok(&json!({"page": page, "products": products}))
    }

    fn one(&self, id: &str) -> Answer {
        let products = self.products.borrow();
        match id.parse().ok().and_then(|id: i64| products.get(&id)) {
            Some(product) => ok(product),
            None => not_found(),
        }
    }

    fn update(&self, id: &str, call: &Call) -> Answer {
        let mut products = self.products.borrow_mut();
        let Some(product) = id.parse().ok().and_then(|id: i64| products.get_mut(&id)) else {
            return not_found();
        };
        let (Some(product), Value::Object(changes)) = (product.as_object_mut(), call.json()) else {
            return bad_request("an object was expected");
        };
        product.extend(changes);
        ok(&Value::Object(product.clone()))
    }
}

fn name_of(product: &Value) -> &str {
    product.get("name").and_then(Value::as_str).unwrap_or("")
}

impl Handle for Catalog {
    fn handle<'a>(&'a self, call: Call) -> Pin<Box<dyn Future<Output = Answer> + 'a>> {
        Box::pin(async move { self.route(&call) })
    }
}
