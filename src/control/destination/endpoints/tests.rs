//! What a client is told, and what not.

use std::collections::BTreeMap;

use super::*;

fn target(address: &str, node: &str, zones: &[&str]) -> Arc<Target> {
    Arc::new(Target {
        weighted: view::unknown(address.parse().unwrap()),
        node: Some(node.into()),
        zone: zones.first().map(|&zone| zone.into()),
        for_zones: zones.iter().map(|&zone| zone.into()).collect(),
    })
}

fn view(targets: &[Arc<Target>]) -> View {
    let address = |target: &Arc<Target>| SocketAddr::try_from(target.weighted.addr.unwrap()).unwrap();
    let targets: BTreeMap<_, _> = targets.iter().map(|target| (address(target), target.clone())).collect();
    View {
        exists: true,
        is_zoned: !targets.is_empty() && targets.values().all(|target| !target.for_zones.is_empty()),
        targets: Arc::new(targets),
        ..View::default()
    }
}

fn told(place: Place) -> Told {
    Told::nothing(Key::new("shop", "web"), place)
}

fn at(node: &str, zone: &str) -> Place {
    Place { node: Some(node.into()), zone: Some(zone.into()) }
}

/// The updates in few words: `+` added, `-` removed, `none` or `gone`.
fn words(updates: VecDeque<Update>) -> Vec<String> {
    let address = |address| SocketAddr::try_from(address).unwrap().to_string();
    updates
        .into_iter()
        .flat_map(|update| match update.update.unwrap() {
            update::Update::Add(set) => {
                set.addrs.into_iter().map(|one| format!("+{}", address(one.addr.unwrap()))).collect::<Vec<_>>()
            }
            update::Update::Remove(set) => set.addrs.into_iter().map(|one| format!("-{}", address(one))).collect(),
            update::Update::NoEndpoints(NoEndpoints { exists: true }) => vec!["none".into()],
            update::Update::NoEndpoints(NoEndpoints { exists: false }) => vec!["gone".into()],
        })
        .collect()
}

const A: &str = "10.1.0.1:80";
const B: &str = "10.1.0.2:80";

#[test]
fn a_client_is_told_all_at_first_and_then_what_changed() {
    let first = view(&[target(A, "n1", &[])]);
    let second = view(&[target(A, "n1", &[]), target(B, "n1", &[])]).after(&first).unwrap();
    let third = view(&[target(B, "n1", &[])]).after(&second).unwrap();
    let mut client = told(Place::default());
    assert_eq!(words(client.updates(&first)), ["+10.1.0.1:80"]);
    assert_eq!(words(client.updates(&second)), ["+10.1.0.2:80"]);
    assert_eq!(words(client.updates(&third)), ["-10.1.0.1:80"]);
}

#[test]
fn a_client_that_missed_views_is_told_the_difference_to_what_it_knows() {
    let first = view(&[target(A, "n1", &[])]);
    let missed = view(&[]).after(&first).unwrap();
    let third = view(&[target(A, "n1", &[]), target(B, "n1", &[])]).after(&missed).unwrap();
    let mut client = told(Place::default());
    client.updates(&first);
    assert_eq!(words(client.updates(&third)), ["+10.1.0.2:80"]);
}

#[test]
fn a_changed_endpoint_is_added_again_and_an_equal_view_is_none() {
    let first = view(&[target(A, "n1", &[])]);
    assert!(view(&[target(A, "n1", &[])]).after(&first).is_none());
    let moved = view(&[target(A, "n2", &[])]).after(&first).unwrap();
    let mut client = told(Place::default());
    client.updates(&first);
    assert_eq!(words(client.updates(&moved)), ["+10.1.0.1:80"]);
}

#[test]
fn no_endpoints_are_told_at_once_and_whether_the_service_is_gone() {
    let empty = view(&[]);
    let some = view(&[target(A, "n1", &[])]).after(&empty).unwrap();
    let gone = View::default().after(&some).unwrap();
    let mut client = told(Place::default());
    assert_eq!(words(client.updates(&empty)), ["none"]);
    assert_eq!(words(client.updates(&some)), ["+10.1.0.1:80"]);
    assert_eq!(words(client.updates(&gone)), ["gone"]);
    let back = view(&[]).after(&gone).unwrap();
    assert_eq!(words(client.updates(&back)), ["none"]);
}

#[test]
fn a_local_service_is_told_of_the_clients_node_only() {
    let mut local = view(&[target(A, "n1", &[]), target(B, "n2", &[])]);
    local.is_local_only = true;
    assert_eq!(words(told(at("n2", "z")).updates(&local)), ["+10.1.0.2:80"]);
    assert_eq!(words(told(at("n3", "z")).updates(&local)), ["none"]);
    assert_eq!(words(told(Place::default()).updates(&local)), ["none"]);
}

#[test]
fn a_zoned_service_is_told_of_the_clients_zone_but_better_far_than_nowhere() {
    let zoned = view(&[target(A, "n1", &["a"]), target(B, "n2", &["b"])]);
    assert_eq!(words(told(at("n1", "b")).updates(&zoned)), ["+10.1.0.2:80"]);
    assert_eq!(words(told(at("n1", "c")).updates(&zoned)).len(), 2);
    let half = view(&[target(A, "n1", &["a"]), target(B, "n2", &[])]);
    assert_eq!(words(told(at("n1", "b")).updates(&half)).len(), 2, "hints count only where all endpoints have them");
}

#[test]
fn a_client_is_told_how_far_endpoints_are() {
    let zoned = view(&[target(A, "n1", &["a"]), target(B, "n2", &["b", "a"])]);
    let updates = told(at("n1", "a")).updates(&zoned);
    let Some(update::Update::Add(set)) = &updates[0].update else { panic!("{updates:?}") };
    let localities: Vec<&str> = set.addrs.iter().map(|one| one.metric_labels["zone_locality"].as_str()).collect();
    assert_eq!(localities, ["local", "remote"]);
    assert_eq!(set.metric_labels["service"], "web");
}
