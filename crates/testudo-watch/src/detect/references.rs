//! What an anomaly may be, in the words of MITRE ATT&CK (v15) and the OWASP API Security Top 10 (2023).

use serde::{Deserialize, Serialize};

use super::Detector;

/// A technique or a risk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// `T1110.004`, `API2:2023`.
    pub id: String,
    /// Its name there.
    pub name: String,
}

type Pair = (&'static str, &'static str);

const AUTHENTICATION: Pair = ("API2:2023", "Broken Authentication");
const CONSUMPTION: Pair = ("API4:2023", "Unrestricted Resource Consumption");
const FUNCTION: Pair = ("API5:2023", "Broken Function Level Authorization");
const FLOWS: Pair = (
    "API6:2023",
    "Unrestricted Access to Sensitive Business Flows",
);
const CONFIGURATION: Pair = ("API8:2023", "Security Misconfiguration");
const INVENTORY: Pair = ("API9:2023", "Improper Inventory Management");
const EXPLOIT: Pair = ("T1190", "Exploit Public-Facing Application");

impl Detector {
    /// MITRE ATT&CK techniques that look like this.
    pub fn mitre(self) -> Vec<Reference> {
        let pairs: &[Pair] = match self {
            Detector::NewEdge => &[("T1210", "Exploitation of Remote Services")],
            Detector::Rate => &[("T1499", "Endpoint Denial of Service")],
            Detector::Errors => &[EXPLOIT],
            Detector::Denials => &[("T1078", "Valid Accounts")],
            Detector::Latency => &[("T1499.003", "Application Exhaustion Flood")],
            Detector::Volume => &[("T1567", "Exfiltration Over Web Service")],
            Detector::Enumeration => &[("T1530", "Data from Cloud Storage")],
            Detector::Scan => &[("T1595.003", "Active Scanning: Wordlist Scanning")],
            Detector::Stuffing => &[
                ("T1110.004", "Brute Force: Credential Stuffing"),
                ("T1110.003", "Brute Force: Password Spraying"),
            ],
            Detector::TokenSharing => &[
                ("T1528", "Steal Application Access Token"),
                (
                    "T1550.001",
                    "Use Alternate Authentication Material: Application Access Token",
                ),
            ],
            Detector::Undocumented => &[EXPLOIT],
            Detector::DroppedUser => &[("T1548", "Abuse Elevation Control Mechanism")],
            Detector::Probing => &[("T1499.002", "Service Exhaustion Flood")],
        };
        references(pairs)
    }

    /// The OWASP risks that it is a sign of.
    pub fn owasp(self) -> Vec<Reference> {
        let pairs: &[Pair] = match self {
            Detector::NewEdge | Detector::Denials | Detector::DroppedUser => &[FUNCTION],
            Detector::Rate | Detector::Latency | Detector::Probing => &[CONSUMPTION],
            Detector::Errors => &[CONFIGURATION],
            Detector::Volume => &[FLOWS],
            Detector::Enumeration => &[("API1:2023", "Broken Object Level Authorization")],
            Detector::Scan | Detector::Undocumented => &[INVENTORY],
            Detector::Stuffing | Detector::TokenSharing => &[AUTHENTICATION],
        };
        references(pairs)
    }
}

fn references(pairs: &[Pair]) -> Vec<Reference> {
    let reference = |(id, name): &Pair| Reference {
        id: (*id).to_owned(),
        name: (*name).to_owned(),
    };
    pairs.iter().map(reference).collect()
}
