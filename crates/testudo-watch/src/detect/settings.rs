//! The knobs of all detectors, with their defaults. Where a mesh knows better, its bundle says so.

use super::Detector;

macro_rules! settings {
    ($($(#[$doc:meta])* $field:ident = $detector:ident . $knob:literal : $default:expr;)*) => {
        /// The knobs. Counts are per minute unless they say otherwise; durations in seconds, sizes in
        /// bytes, shares from 0 to 1.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Settings {
            off: Vec<Detector>,
            $($(#[$doc])* pub $field: f64,)*
        }

        impl Default for Settings {
            fn default() -> Settings {
                Settings { off: Vec::new(), $($field: $default,)* }
            }
        }

        impl Settings {
            /// Every knob: detector, name and default.
            pub const KNOBS: &'static [(Detector, &'static str, f64)] =
                &[$((Detector::$detector, $knob, $default),)*];

            /// Sets one.
            ///
            /// # Errors
            /// There is no such knob, or the value is not positive.
            pub fn set(&mut self, detector: Detector, knob: &str, value: f64) -> Result<(), KnobError> {
                if !(value.is_finite() && value > 0.0) {
                    return Err(KnobError::Value { detector, value });
                }
                match (detector, knob) {
                    $((Detector::$detector, $knob) => self.$field = value,)*
                    _ => return Err(KnobError::Unknown { detector, knob: knob.to_owned() }),
                }
                Ok(())
            }
        }
    };
}

settings! {
    /// How long after the first traffic new edges are learned in silence.
    new_edge_learn = NewEdge."learn": 3600.0;
    /// Times the usual rate.
    rate_factor = Rate."factor": 3.0;
    /// Requests below which nothing is said.
    rate_requests = Rate."requests": 120.0;
    /// Share of an edge's requests.
    errors_share = Errors."share": 0.1;
    /// Errors below which nothing is said.
    errors_requests = Errors."requests": 20.0;
    /// Refusals of one principal.
    denials_requests = Denials."requests": 30.0;
    /// Times its usual number.
    denials_factor = Denials."factor": 3.0;
    /// Times the usual median.
    latency_factor = Latency."factor": 3.0;
    /// Medians below this are never slow.
    latency_least = Latency."least": 0.05;
    /// Bytes from which something is said.
    volume_bytes = Volume."bytes": 10_485_760.0;
    /// Times the usual number.
    volume_factor = Volume."factor": 5.0;
    /// Different paths of one operation.
    enumeration_objects = Enumeration."objects": 50.0;
    /// Times the usual number.
    enumeration_factor = Enumeration."factor": 3.0;
    /// Different paths that lead nowhere.
    scan_paths = Scan."paths": 20.0;
    /// Different wrong credentials from one address.
    stuffing_credentials = Stuffing."credentials": 15.0;
    /// Addresses with wrong credentials.
    stuffing_addresses = Stuffing."addresses": 20.0;
    /// Addresses that use one credential within five minutes.
    token_addresses = TokenSharing."addresses": 6.0;
    /// User agents that use one credential within five minutes.
    token_agents = TokenSharing."agents": 6.0;
    /// Requests to operations that no specification has.
    undocumented_requests = Undocumented."requests": 10.0;
    /// Requests without the user that came in.
    dropped_requests = DroppedUser."requests": 3.0;
    /// Requests that a limit stopped.
    probing_requests = Probing."requests": 60.0;
}

/// Why a knob cannot be set.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum KnobError {
    /// The detector has no such knob.
    #[error("{detector} has no knob {knob}")]
    Unknown {
        /// The detector.
        detector: Detector,
        /// What was named.
        knob: String,
    },
    /// Knobs are positive.
    #[error("{value} is no value for {detector}")]
    Value {
        /// The detector.
        detector: Detector,
        /// What was given.
        value: f64,
    },
}

impl Settings {
    /// Makes a detector say nothing.
    pub fn switch_off(&mut self, detector: Detector) {
        if !self.is_off(detector) {
            self.off.push(detector);
        }
    }

    /// Whether a detector says nothing.
    pub fn is_off(&self, detector: Detector) -> bool {
        self.off.contains(&detector)
    }
}
