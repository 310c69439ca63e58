//! What policies may know of the mesh itself: its services with their roles and labels, and the entity
//! types of the generated schema.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use cedar_policy_core::ast::{
    Eid, Entity, EntityType, EntityUID, ExtensionFunction, Literal, Name, PartialValue, Value,
};
use cedar_policy_core::entities::{Entities, NoEntitiesSchema, TCComputation};
use cedar_policy_core::extensions::Extensions;
use smol_str::SmolStr;

use super::claims::ClaimKind;
use super::names::{ActionNames, GATEWAY};
use crate::authn::ANONYMOUS;

/// Cedar refused something that should always hold.
#[derive(Debug, thiserror::Error)]
#[error("Cedar does not accept {what}: {detail}")]
pub struct DirectoryError {
    what: String,
    detail: String,
}

impl DirectoryError {
    fn new(what: impl Into<String>, detail: impl ToString) -> Self {
        DirectoryError {
            what: what.into(),
            detail: detail.to_string(),
        }
    }
}

/// The services of the bundle and the gateway, as entities. Shared by all slices of a snapshot.
pub struct Directory {
    types: Types,
    anonymous: Arc<EntityUID>,
    services: HashMap<Arc<str>, ServiceEntity, ahash::RandomState>,
    claims: BTreeMap<Arc<str>, ClaimKind>,
}

/// One service as policies see it.
pub(super) struct ServiceEntity {
    pub(super) uid: Arc<EntityUID>,
    pub(super) entity: Arc<Entity>,
    pub(super) roles: Vec<Arc<str>>,
}

impl Directory {
    /// Of all services of the bundle: name, roles, labels. The gateway is added; it has no roles.
    ///
    /// # Errors
    /// [`DirectoryError`] where Cedar lacks a type or function that it should have.
    pub fn new<'a>(
        services: impl IntoIterator<
            Item = (
                &'a Arc<str>,
                Vec<Arc<str>>,
                &'a BTreeMap<Arc<str>, Arc<str>>,
            ),
        >,
    ) -> Result<Self, DirectoryError> {
        let types = Types::new()?;
        let mut directory = Directory {
            anonymous: Arc::new(uid(&types.anonymous, ANONYMOUS)),
            types,
            services: HashMap::default(),
            claims: BTreeMap::new(),
        };
        let no_labels = BTreeMap::new();
        directory.add(&Arc::from(GATEWAY), Vec::new(), &no_labels);
        for (name, roles, labels) in services {
            directory.add(name, roles, labels);
        }
        Ok(directory)
    }

    /// With the claims that are no strings to policies; see [`claim_kinds`](super::claim_kinds).
    #[must_use]
    pub fn with_claims(mut self, claims: BTreeMap<Arc<str>, ClaimKind>) -> Self {
        self.claims = claims;
        self
    }

    /// What a claim is to policies.
    pub(super) fn claim_kind(&self, name: &str) -> ClaimKind {
        self.claims.get(name).copied().unwrap_or_default()
    }

    fn add(
        &mut self,
        name: &Arc<str>,
        roles: Vec<Arc<str>>,
        labels: &BTreeMap<Arc<str>, Arc<str>>,
    ) {
        let entity_uid = uid(&self.types.service, name);
        let label_values = labels
            .iter()
            .map(|(label, value)| (SmolStr::from(label.clone()), string(value)));
        let attributes = [
            (SmolStr::new_static("name"), string(name).into()),
            (
                SmolStr::new_static("labels"),
                PartialValue::from(Value::record(label_values, None)),
            ),
        ];
        let parents = roles
            .iter()
            .map(|role| uid(&self.types.service_role, role))
            .collect();
        let entity = Arc::new(Entity::new_with_attr_partial_value(
            entity_uid.clone(),
            attributes,
            HashSet::new(),
            parents,
            [],
        ));
        let service = ServiceEntity {
            uid: Arc::new(entity_uid),
            entity,
            roles,
        };
        self.services.insert(name.clone(), service);
    }

    /// The entity types and functions of Cedar that are used here.
    pub(super) fn types(&self) -> &Types {
        &self.types
    }

    /// `Anonymous::"anonymous"`.
    pub(super) fn anonymous(&self) -> &Arc<EntityUID> {
        &self.anonymous
    }

    /// The service with this name.
    pub(super) fn service(&self, name: &str) -> Option<&ServiceEntity> {
        self.services.get(name)
    }

    /// All services with their names.
    pub(super) fn services(&self) -> impl Iterator<Item = (&Arc<str>, &ServiceEntity)> {
        self.services.iter()
    }

    /// An action with its groups as ancestors.
    pub(super) fn action_entity(&self, names: &ActionNames) -> Arc<Entity> {
        let groups = names
            .groups
            .iter()
            .map(|group| self.types.action(group))
            .collect();
        Arc::new(Entity::new_with_attr_partial_value(
            self.types.action(&names.operation),
            [],
            HashSet::new(),
            groups,
            [],
        ))
    }

    /// All services, and an action.
    pub(super) fn entities_with(&self, action: &Arc<Entity>) -> Result<Entities, DirectoryError> {
        let services = self.services.values().map(|service| service.entity.clone());
        add_entities(Entities::new(), services.chain([action.clone()]))
            .map_err(|error| DirectoryError::new(format!("the action {}", action.uid()), error))
    }
}

/// Adds entities whose ancestors are all named as parents already.
pub(super) fn add_entities(
    entities: Entities,
    more: impl IntoIterator<Item = Arc<Entity>>,
) -> Result<Entities, Box<cedar_policy_core::entities::err::EntitiesError>> {
    entities
        .add_entities(
            more,
            None::<&NoEntitiesSchema>,
            TCComputation::AssumeAlreadyComputed,
            Extensions::all_available(),
        )
        .map_err(Box::new)
}

/// The entity types of the generated schema and the constructors of Cedar's extension types.
pub(super) struct Types {
    user: EntityType,
    anonymous: EntityType,
    service: EntityType,
    api: EntityType,
    role: EntityType,
    service_role: EntityType,
    action: EntityType,
    pub(super) ip: &'static ExtensionFunction,
    pub(super) decimal: &'static ExtensionFunction,
    pub(super) datetime: &'static ExtensionFunction,
}

impl Types {
    fn new() -> Result<Self, DirectoryError> {
        Ok(Types {
            user: entity_type("User")?,
            anonymous: entity_type("Anonymous")?,
            service: entity_type("Service")?,
            api: entity_type("Api")?,
            role: entity_type("Role")?,
            service_role: entity_type("ServiceRole")?,
            action: entity_type("Action")?,
            ip: function("ip")?,
            decimal: function("decimal")?,
            datetime: function("datetime")?,
        })
    }

    pub(super) fn user(&self, id: &Arc<str>) -> EntityUID {
        EntityUID::from_components(self.user.clone(), Eid::new(id.clone()), None)
    }

    pub(super) fn role(&self, name: &Arc<str>) -> EntityUID {
        EntityUID::from_components(self.role.clone(), Eid::new(name.clone()), None)
    }

    pub(super) fn api(&self, service: &str) -> EntityUID {
        uid(&self.api, service)
    }

    pub(super) fn action(&self, name: &str) -> EntityUID {
        uid(&self.action, name)
    }
}

fn entity_type(name: &str) -> Result<EntityType, DirectoryError> {
    Name::parse_unqualified_name(name)
        .map(EntityType::from)
        .map_err(|error| DirectoryError::new(format!("the type {name}"), error))
}

fn function(name: &str) -> Result<&'static ExtensionFunction, DirectoryError> {
    let unknown = |detail: String| DirectoryError::new(format!("the function {name}"), detail);
    let name = Name::parse_unqualified_name(name).map_err(|error| unknown(error.to_string()))?;
    Extensions::all_available()
        .func(&name)
        .map_err(|error| unknown(error.to_string()))
}

fn uid(entity_type: &EntityType, id: &str) -> EntityUID {
    EntityUID::from_components(entity_type.clone(), Eid::new(id), None)
}

fn string(text: &Arc<str>) -> Value {
    Value::from(Literal::String(SmolStr::from(text.clone())))
}
