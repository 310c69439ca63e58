//! One canonical request for router, policy, schema, inspection and upstream (DESIGN §9), and the
//! refusal of everything that two readers could understand differently.
