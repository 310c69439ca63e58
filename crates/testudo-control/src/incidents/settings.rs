//! From `watch.detectors` of the bundle to the detectors' settings.

use testudo_policy::config::Watch;
use testudo_watch::detect::{Detector, Settings};

/// The knobs as a bundle has them.
pub fn settings(watch: &Watch) -> Settings {
    let mut settings = Settings::default();
    for (name, knobs) in &watch.detectors {
        let Some(detector) = Detector::from_name(name) else {
            tracing::error!(
                detector = name,
                "the bundle's table and the detectors disagree"
            );
            continue;
        };
        if knobs.off {
            settings.switch_off(detector);
        }
        for (knob, value) in &knobs.knobs {
            if let Err(error) = settings.set(detector, knob, *value) {
                tracing::error!(%error, "the bundle's table and the detectors disagree");
            }
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_bundle_knows_the_detectors_and_all_of_their_knobs() {
        let bundle: BTreeSet<(&str, &str)> = testudo_policy::config::detectors()
            .flat_map(|(name, knobs)| knobs.into_iter().map(move |knob| (name, knob)))
            .collect();
        let detectors: BTreeSet<(&str, &str)> = Settings::KNOBS
            .iter()
            .map(|(detector, knob, _)| (detector.as_str(), *knob))
            .collect();
        assert_eq!(bundle, detectors);
        let names: Vec<_> = testudo_policy::config::detectors().map(|d| d.0).collect();
        assert_eq!(names.len(), Detector::ALL.len());
    }
}
