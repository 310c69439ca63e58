//! What every diagnostic, reason and metric means, and what to do.
