//! Asks the API server whose token it is: the proof behind every identity.
//!
//! In: a token from the network. Out: the [`Account`] it belongs to, or why it proves nothing. Only tokens that were made for
//! the mesh count. Where that is set, so do tokens for the API server itself, which pods without a token of their own for the mesh send:
//! about those the API server is asked a second time, without an audience.
//!
//! Start at [`review`]. The ServiceAccount needs `create tokenreviews.authentication.k8s.io`.

use std::future::Future;
use std::time::Duration;

use futures_util::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::timeout;

use crate::mesh::identity::is_label;

/// The API server checks a signature and reads two objects from its cache; whoever waits longer asks another replica.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
/// What the API server says of a token that is good, but not made for whom it was shown to.
const OTHER_AUDIENCE: &str = "token audiences";

/// The service account that a token belongs to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Account {
    pub namespace: String,
    pub service_account: String,
}

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("cannot have the token reviewed")]
    Api(#[source] Box<kube::Error>),
    #[error("the API server did not review the token within {REVIEW_TIMEOUT:?}")]
    Timeout,
    #[error("the API server refused the token: {0}")]
    Invalid(String),
    #[error("authentication token could not be authenticated")]
    NotAuthenticated,
    #[error("the token belongs to {0:?}, which is no service account with an identity")]
    NoServiceAccount(String),
    #[error("the API server does not say that the token is for {0:?}")]
    AudienceUnknown(String),
}

/// Who can say whose token it is: the API server, or a test.
pub trait Reviewer: Send + Sync + 'static {
    fn review(&self, token: String) -> BoxFuture<'_, Result<Account, Refused>>;
}

/// The API server.
#[derive(Clone)]
pub struct ApiServer {
    pub client: Client,
    /// Whom tokens must have been made for.
    pub audience: &'static str,
    /// Whether those made for the API server will do.
    pub accepts_api_server_tokens: bool,
}

impl Reviewer for ApiServer {
    fn review(&self, token: String) -> BoxFuture<'_, Result<Account, Refused>> {
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let ask = move |spec| {
            let reviews = reviews.clone();
            async move {
                let asked = TokenReview { spec, ..TokenReview::default() };
                let reviewed = timeout(REVIEW_TIMEOUT, reviews.create(&PostParams::default(), &asked)).await;
                let reviewed =
                    reviewed.map_err(|_| Refused::Timeout)?.map_err(|error| Refused::Api(Box::new(error)))?;
                Ok(reviewed.status.unwrap_or_default())
            }
        };
        Box::pin(review(ask, token, self.audience, self.accepts_api_server_tokens))
    }
}

/// Has `token` reviewed for `audience`, and if it is for another and `accepts_api_server_tokens` once more for the API server's own.
///
/// # Errors
/// Where the API server cannot be asked, does not vouch for the token, or vouches for somebody without an identity.
pub async fn review<F>(
    ask: impl Fn(TokenReviewSpec) -> F,
    token: String,
    audience: &str,
    accepts_api_server_tokens: bool,
) -> Result<Account, Refused>
where
    F: Future<Output = Result<TokenReviewStatus, Refused>>,
{
    let mut is_for_audience = true;
    let mut status =
        ask(TokenReviewSpec { audiences: Some(vec![audience.into()]), token: Some(token.clone()) }).await?;
    let is_for_others =
        |status: &TokenReviewStatus| status.error.as_ref().is_some_and(|error| error.contains(OTHER_AUDIENCE));
    if accepts_api_server_tokens && is_for_others(&status) {
        is_for_audience = false;
        status = ask(TokenReviewSpec { audiences: None, token: Some(token) }).await?;
    }
    if let Some(error) = status.error.filter(|error| !error.is_empty()) {
        return Err(Refused::Invalid(error));
    }
    if status.authenticated != Some(true) {
        return Err(Refused::NotAuthenticated);
    }
    // An authenticator that knows nothing of audiences leaves them out, and may vouch for a token made for anyone.
    let audiences = status.audiences.unwrap_or_default();
    if is_for_audience && !audiences.iter().any(|named| named == audience) {
        return Err(Refused::AudienceUnknown(audience.into()));
    }
    let username = status.user.and_then(|user| user.username).unwrap_or_default();
    account(&username).ok_or(Refused::NoServiceAccount(username))
}

/// `system:serviceaccount:<namespace>:<name>`, where each can be a part of an identity.
fn account(username: &str) -> Option<Account> {
    let mut parts = username.split(':');
    match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("system"), Some("serviceaccount"), Some(namespace), Some(service_account), None)
            if is_label(namespace) && is_label(service_account) =>
        {
            Some(Account { namespace: namespace.into(), service_account: service_account.into() })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    const AUDIENCE: &str = "identity.l5d.io";
    const WRONG_AUDIENCE: &str =
        r#"[invalid bearer token, token audiences ["vault"] is invalid for the target audiences]"#;

    fn vouched(username: &str, audiences: &[&str]) -> TokenReviewStatus {
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(audiences.iter().map(|&audience| audience.into()).collect()),
            user: Some(UserInfo { username: Some(username.into()), ..UserInfo::default() }),
            ..TokenReviewStatus::default()
        }
    }

    fn refused(error: &str) -> TokenReviewStatus {
        TokenReviewStatus { error: Some(error.into()), ..TokenReviewStatus::default() }
    }

    /// Reviews with an API server that gives these answers, one after the other; returns also what it was asked.
    async fn reviewed(answers: Vec<TokenReviewStatus>) -> (Result<Account, Refused>, Vec<Option<Vec<String>>>) {
        reviewed_by(false, answers).await
    }

    async fn reviewed_by(
        accepts_api_server_tokens: bool,
        answers: Vec<TokenReviewStatus>,
    ) -> (Result<Account, Refused>, Vec<Option<Vec<String>>>) {
        let (answers, asked) = (Mutex::new(answers.into_iter()), Mutex::new(Vec::new()));
        let ask = |spec: TokenReviewSpec| {
            asked.lock().unwrap().push(spec.audiences);
            let answer = answers.lock().unwrap().next().expect("asked too often");
            async move { Ok(answer) }
        };
        let result = review(ask, "token".into(), AUDIENCE, accepts_api_server_tokens).await;
        (result, asked.into_inner().unwrap())
    }

    #[tokio::test]
    async fn names_the_service_account_of_a_token_for_the_mesh() {
        let (account, asked) = reviewed(vec![vouched("system:serviceaccount:shop:web", &[AUDIENCE])]).await;
        assert_eq!(account.unwrap(), Account { namespace: "shop".into(), service_account: "web".into() });
        assert_eq!(asked, [Some(vec![AUDIENCE.to_owned()])]);
    }

    #[tokio::test]
    async fn refuses_a_token_for_another_audience_and_does_not_ask_again() {
        let (refused, asked) = reviewed(vec![refused(WRONG_AUDIENCE)]).await;
        assert!(matches!(refused, Err(Refused::Invalid(_))));
        assert_eq!(asked, [Some(vec![AUDIENCE.to_owned()])], "not whether it is for the API server, either");
    }

    #[tokio::test]
    async fn asks_once_more_about_a_token_for_the_api_server_where_that_is_accepted() {
        let plain = vouched("system:serviceaccount:shop:web", &["https://kubernetes.default.svc"]);
        let (account, asked) = reviewed_by(true, vec![refused(WRONG_AUDIENCE), plain]).await;
        assert!(account.is_ok());
        assert_eq!(asked, [Some(vec![AUDIENCE.to_owned()]), None]);
    }

    #[tokio::test]
    async fn refuses_a_token_for_anyone_else_even_then() {
        let (refused, asked) = reviewed_by(true, vec![refused(WRONG_AUDIENCE), refused(WRONG_AUDIENCE)]).await;
        assert!(matches!(refused, Err(Refused::Invalid(_))));
        assert_eq!(asked.len(), 2);
    }

    #[tokio::test]
    async fn refuses_a_token_that_is_not_authenticated_and_does_not_ask_again() {
        let (refused, asked) = reviewed(vec![TokenReviewStatus::default()]).await;
        assert!(matches!(refused, Err(Refused::NotAuthenticated)));
        assert_eq!(asked.len(), 1);
    }

    #[tokio::test]
    async fn refuses_an_authenticator_that_ignores_the_audience() {
        let (refused, _) = reviewed(vec![vouched("system:serviceaccount:shop:web", &[])]).await;
        assert!(matches!(refused, Err(Refused::AudienceUnknown(_))));
    }

    #[tokio::test]
    async fn refuses_users_that_are_no_service_accounts() {
        for username in [
            "system:node:worker",
            "system:serviceaccount:shop:web.v2",
            "system:serviceaccount:shop",
            "system:serviceaccount:shop:web:more",
            "admin",
            "",
        ] {
            let (refused, _) = reviewed(vec![vouched(username, &[AUDIENCE])]).await;
            assert!(matches!(refused, Err(Refused::NoServiceAccount(_))), "{username}");
        }
    }
}
