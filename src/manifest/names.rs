//! Names that others rely on: labels, annotations, ports, containers. Those of Linkerd are a contract with what people run.

/// On a namespace or a pod: `enabled`, `disabled` or `ingress`.
pub const INJECT: &str = "linkerd.io/inject";
/// The prefix of every setting that a namespace or pod can carry.
pub const CONFIG_PREFIX: &str = "config.linkerd.io/";
/// On a pod: the namespace of the control plane it is meshed by. This label is what makes a pod meshed for others.
pub const CONTROL_PLANE_NS: &str = "linkerd.io/control-plane-ns";
/// On objects of the control plane: which role they belong to.
pub const COMPONENT: &str = "linkerd.io/control-plane-component";
/// On objects of an installation: [`PART_OF_HAWSER`], which tells them from those of a Linkerd.
pub const PART_OF: &str = "app.kubernetes.io/part-of";
pub const PART_OF_HAWSER: &str = "hawser";
/// On a pod: its own namespace.
pub const WORKLOAD_NS: &str = "linkerd.io/workload-ns";
/// On a pod: the prefix of the label that names its owner, such as `linkerd.io/proxy-deployment`.
pub const PROXY_OWNER_PREFIX: &str = "linkerd.io/proxy-";
/// On a pod: the version of its proxy.
pub const PROXY_VERSION: &str = "linkerd.io/proxy-version";
/// On objects: who made them.
pub const CREATED_BY: &str = "linkerd.io/created-by";
/// On a pod: the SHA-256 of the bundle it was injected with.
pub const TRUST_ROOT_SHA256: &str = "linkerd.io/trust-root-sha256";

pub const PROXY_CONTAINER: &str = "linkerd-proxy";
pub const INIT_CONTAINER: &str = "linkerd-init";
/// The container port of the proxy's admin server; scrapers find proxies by it.
pub const ADMIN_PORT_NAME: &str = "linkerd-admin";
pub const INBOUND_PORT_NAME: &str = "linkerd-proxy";

pub const INBOUND_PORT: u16 = 4143;
pub const OUTBOUND_PORT: u16 = 4140;
pub const TAP_PORT: u16 = 4190;
pub const ADMIN_PORT: u16 = 4191;
pub const PROXY_UID: u32 = 2102;
/// The user of the init container: nobody, who is not the proxy and owns nothing.
pub const INIT_UID: u32 = 65534;
/// The user of the control plane's roles.
pub const CONTROL_UID: u32 = 2103;
/// Who runs what starts from the image without being told: an app, which must never be [`PROXY_UID`], for whose connections the
/// redirection lets pass.
pub const IMAGE_UID: u32 = 65532;

/// The audience of the service-account tokens that proxies prove themselves with.
pub const TOKEN_AUDIENCE: &str = "identity.l5d.io";

/// What the proxy of the identity role tells it of each request: the address of the client, so that one that asks in a loop is known.
pub const CLIENT_IP: &str = "hawser-client-ip";

/// How an app asks its proxy for retries of calls, by their statuses; and how the control plane has it done for all apps.
pub const RETRY_GRPC: &str = "l5d-retry-grpc";

/// The Services and ServiceAccounts of the roles, and where they listen.
pub const IDENTITY: &str = "hawser-identity";
pub const IDENTITY_PORT: u16 = 8080;
pub const DESTINATION: &str = "hawser-destination";
pub const DESTINATION_PORT: u16 = 8086;
/// The admin port of every role; that of its pod's proxy is [`ADMIN_PORT`].
pub const ROLE_ADMIN_PORT: u16 = 9990;
/// The Service of the policy API, which the destination role serves.
pub const POLICY: &str = "hawser-policy";
pub const POLICY_PORT: u16 = 8090;
pub const INJECTOR: &str = "hawser-injector";
pub const INJECTOR_PORT: u16 = 8443;

/// Made empty by `install`, filled by the identity role: no key is ever in a manifest.
pub const ANCHOR_SECRET: &str = "hawser-trust-anchor";
pub const ISSUER_SECRET: &str = "hawser-identity-issuer";
/// The bundle, for everyone to read: key [`BUNDLE_KEY`].
pub const BUNDLE_CONFIG_MAP: &str = "hawser-trust-bundle";
pub const BUNDLE_KEY: &str = "ca-bundle.crt";
/// Beside it: where a rotation of the anchor stands, and what is asked of the identity role.
pub const ROTATION_KEY: &str = "rotation";
pub const REQUEST_KEY: &str = "request";
/// The volume in memory through which a role gives the bundle to the proxy of its pod.
pub const BUNDLE_VOLUME: &str = "hawser-trust-bundle";
pub const BUNDLE_DIR: &str = "/var/run/hawser/trust-bundle";
pub const BUNDLE_FILE: &str = "/var/run/hawser/trust-bundle/ca-bundle.crt";
/// The effective values of the installation, for the injector and the command line: key `values`.
pub const CONFIG_MAP: &str = "hawser-config";
/// The injector's serving certificate: made empty by `install`, filled by the injector.
pub const WEBHOOK_SECRET: &str = "hawser-injector-tls";
pub const WEBHOOK_CONFIG: &str = "hawser-injector";
