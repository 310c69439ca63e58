//! OpenAPI 3.0 and 3.1 documents, read with the place of everything that is enforced.
