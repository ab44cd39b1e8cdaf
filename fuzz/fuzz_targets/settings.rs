//! The settings that pods give the proxy: whatever they say, they are taken or refused.
#![no_main]

use clap::Parser as _;
use hawser::manifest::inject::settings::apply;
use hawser::manifest::values::Values;
use hawser::mesh::log_filter;
use hawser::proxy::Settings;
use libfuzzer_sys::fuzz_target;

#[derive(Debug, clap::Parser)]
struct Command {
    #[command(flatten)]
    settings: Settings,
}

const REQUIRED: [&str; 6] = [
    "--destination-svc-addr=localhost.:8086",
    "--policy-svc-addr=localhost.:8090",
    "--policy-workload={}",
    "--identity-local-name=web.shop.serviceaccount.identity.hawser.cluster.local",
    "--identity-token-file=/token",
    "--identity-svc-addr=identity.hawser.svc.cluster.local.:8080",
];
/// Those that are read by more than an enum or a number.
const FLAGS: [&str; 9] = [
    "destination-profile-networks",
    "identity-svc-name",
    "inbound-connect-timeout",
    "inbound-default-policy",
    "inbound-ips",
    "inbound-ports",
    "log",
    "outbound-listen-addrs",
    "policy-svc-addr",
];
const ANNOTATIONS: [&str; 6] =
    ["opaque-ports", "proxy-additional-env", "proxy-cpu-limit", "proxy-log-level", "shutdown-grace-period", "skip-subnets"];

fuzz_target!(|given: (u8, &str)| {
    let (which, value) = given;
    let flag = FLAGS[usize::from(which) % FLAGS.len()];
    let value_of = format!("--{flag}={value}");
    if let Ok(Command { settings }) =
        Command::try_parse_from(["proxy"].into_iter().chain(REQUIRED).chain([value_of.as_str()]))
    {
        let _addresses = settings.outbound_listen_addrs();
        let _filter = settings.log_filter();
        assert!(settings.control.policy_svc_addr.port != 0);
    }
    let _applied = apply(&mut Values::default(), ANNOTATIONS[usize::from(which) % ANNOTATIONS.len()], value);
    let _checked = log_filter::check(value);
});
