//! What is counted by the routes of ServiceProfiles on the way in, and what is not looked up.

use std::time::Duration;

use hawser::mesh::Protocol;
use hawser::net::drain::Drain;
use hawser::proxy::profiles::{Profiles, Settings};
use hawser::proxy::subscription::Limits;

use super::world::Pod;
use super::{apps, get, header};
use crate::support::control::{Control, profile, route};
use crate::support::eventually;

pub(super) const PROFILED: &str = "web.shop.svc.cluster.local:80";
/// How a client's proxy names it.
pub(super) const CANONICAL: &str = "l5d-dst-canonical: web.shop.svc.cluster.local:80\r\n";
const SOON: Duration = Duration::from_secs(30);

pub(crate) fn profiles(control: &Control) -> Profiles {
    profiles_of(&format!("http://{}", control.address), SOON)
}

fn profiles_of(address: &str, initial_timeout: Duration) -> Profiles {
    let channel = tonic::transport::Endpoint::from_shared(address.to_owned()).unwrap().connect_lazy();
    let settings = Settings {
        context: "{\"ns\":\"shop\"}\n".into(),
        suffixes: "svc.cluster.local.".parse().unwrap(),
        initial_timeout,
        idle_timeout: Duration::from_secs(90),
        limits: Limits::default(),
    };
    Profiles::new(channel, settings, Drain::new())
}

fn metric(pod: &Pod, name: &str, labels: &str) -> Option<String> {
    let text = pod.metrics.encode().unwrap();
    let line = format!("{name}{{{labels}");
    text.lines().find_map(|told| told.strip_prefix(&line)).map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_counted_for_the_route_that_its_service_s_profile_has_for_it() {
    let control = Control::start();
    let routes = vec![route("other", "/other"), route("cart", "/cart"), route("all", "/.*")];
    control.profile(PROFILED, profile(routes));
    let pod = Pod::changed(|options| options.profiles = Some(profiles(&control)));
    let app = apps::http1().await;
    let answer = get(pod.connect(header(app, Protocol::Http1)).await, CANONICAL).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("l5d-dst-canonical: "), "{answer}");
    let labels = r#"direction="inbound",dst="web.shop.svc.cluster.local:80",rt_route="cart""#;
    eventually("it is counted, and nothing is that only clients know", SOON, || {
        let counted = [
            metric(&pod, "route_request_total", labels),
            metric(&pod, "route_response_total", &format!("{labels},status_code=\"200\",classification=\"success\"")),
            metric(&pod, "route_actual_request_total", ""),
        ];
        match &counted {
            [Some(requests), Some(_), None] if requests == "} 1" => Ok(()),
            _ => Err(counted),
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn only_names_below_the_suffixes_are_looked_up() {
    let control = Control::start();
    let pod = Pod::changed(|options| options.profiles = Some(profiles(&control)));
    let app = apps::http1().await;
    for canonical in ["", "l5d-dst-canonical: web.example.com:80\r\n", "l5d-dst-canonical: 10.0.0.1:80\r\n"] {
        let answer = get(pod.connect(header(app, Protocol::Http1)).await, canonical).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    assert!(control.profiled().is_empty(), "{:?}", control.profiled());
    get(pod.connect(header(app, Protocol::Http1)).await, CANONICAL).await;
    assert_eq!(control.profiled(), [PROFILED]);
    assert_eq!(metric(&pod, "route_request_total", ""), None, "a profile without routes counts nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_says_nothing_holds_no_request_for_long() {
    // It takes connections, and that is all.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", mute.local_addr().unwrap());
    let profiles = profiles_of(&address, Duration::from_millis(200));
    let pod = Pod::changed(|options| options.profiles = Some(profiles));
    let app = apps::http1().await;
    for _ in 0..3 {
        let answer = get(pod.connect(header(app, Protocol::Http1)).await, CANONICAL).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_names_are_followed_and_whoever_names_more_is_served_all_the_same() {
    let control = Control::start();
    let profiles = profiles(&control);
    let pod = Pod::changed(|options| options.profiles = Some(profiles.clone()));
    let app = apps::http1().await;
    for number in 0..80 {
        let canonical = format!("l5d-dst-canonical: web-{number}.shop.svc.cluster.local:80\r\n");
        let answer = get(pod.dial(app).await, &canonical).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    assert_eq!(profiles.followed(), 64);
    assert_eq!(control.profiled().len(), 64);
}
