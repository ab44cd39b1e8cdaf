//! Two identity roles, as processes, that start at the same instant on an API server in which nothing has been made yet.

use std::time::{Duration, SystemTime};

use hawser::pki::{Certificate, LeafKey};
use hawser::wire::identity::CertifyRequest;
use hawser::wire::identity::identity_client::IdentityClient;

use crate::support::objects::{ANCHOR, BUNDLE, ISSUER, Objects, Replica};

const WEB: &str = "web.shop.serviceaccount.identity.hawser.cluster.local";

async fn certify(replica: &Replica) -> Option<(Certificate, Vec<Vec<u8>>)> {
    let mut client = IdentityClient::connect(format!("http://{}", replica.address)).await.ok()?;
    let certificate_signing_request = LeafKey::generate().unwrap().csr(&WEB.parse().unwrap()).unwrap();
    let token = b"of.web.token".to_vec();
    let asked = CertifyRequest { identity: WEB.into(), token, certificate_signing_request };
    let answer = client.certify(asked).await.ok()?.into_inner();
    Some((Certificate::from_der(answer.leaf_certificate).unwrap(), answer.intermediate_certificates))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_start_at_the_same_instant_agree_on_one_anchor() {
    // Both read that there is no anchor before either can have made one.
    let (objects, kubeconfig) = Objects::start(2);
    let replicas = [(); 2].map(|()| Replica::start(kubeconfig.path()));
    for replica in &replicas {
        let mut certified = None;
        for _ in 0..600 {
            certified = certify(replica).await;
            if certified.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (leaf, intermediates) = certified.expect("a certificate within a minute");
        let intermediates: Vec<_> = intermediates.into_iter().map(Into::into).collect();
        let bundle = objects.bundle().unwrap();
        assert_eq!(bundle.anchors().len(), 1);
        bundle.verify(&leaf, &intermediates, SystemTime::now()).unwrap();
    }
    assert_eq!((objects.written(ANCHOR), objects.written(ISSUER), objects.written(BUNDLE)), (1, 1, 1));
}
