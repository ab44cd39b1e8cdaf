//! A gateway follows the ServiceProfile of what its clients name, as it would for an app of its own.

use hawser::mesh::Protocol;

use super::super::inbound::get;
use super::super::outbound::world::{AUTHORITY, App, Peer, Seen, WEB};
use super::SOON;
use super::world::{World, header};
use crate::support::control::{profile, route, split};
use crate::support::eventually;

const CART: &str = "cart.shop.svc.cluster.local:80";

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_where_the_profile_of_the_name_says() {
    let world = World::start(App::Http("web")).await;
    let cart = Peer::start(world.pki.tls(WEB), App::Http("cart")).await;
    world.control.add(CART, vec![cart.endpoint(80, WEB)]);
    world.control.profile(AUTHORITY, split(&[(CART, 1)]));
    let answer = get(world.connect(header(Protocol::Http1)).await, "").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("cart"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_of_the_profile_is_told_and_counted_on_the_way_out_only() {
    let mut world = World::start(App::Http("web")).await;
    world.control.profile(AUTHORITY, profile(vec![route("cart", "/cart")]));
    let answer = get(world.connect(header(Protocol::Http1)).await, "l5d-dst-canonical: other:80\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    world.peer.next().await;
    let Seen::Request { headers, .. } = world.peer.next().await else { panic!("no request") };
    let canonical: Vec<_> = headers.get_all("l5d-dst-canonical").iter().collect();
    assert_eq!(canonical, [AUTHORITY], "what a client says of it goes no further");
    let counted = |direction: &str| world.gateway.metric("route_response_total", &[direction, "rt_route=\"cart\""]);
    eventually("it is counted", SOON, || {
        let counted = (counted("direction=\"outbound\""), counted("direction=\"inbound\""));
        if counted == (1.0, 0.0) { Ok(()) } else { Err((counted, world.gateway.metrics.encode())) }
    });
}
