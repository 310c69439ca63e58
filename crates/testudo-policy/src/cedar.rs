//! Cedar: the schema generated from the APIs, policies with diagnostics, and their slices for each operation.
