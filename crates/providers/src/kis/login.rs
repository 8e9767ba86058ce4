//! The two passes KIS issues: an access token for requests and an approval key for the socket, both for 24 hours.
//!
//! Errors come in another envelope than those of other calls (`error_code`, without `rt_cd`), and the application's secret has another name in
//! either request. **Source**: the broker's public samples and portal pages on tokenP and Approval, read 2026-11.
//!
//! Next: `frame.rs`.

use super::{APP_KEY, APP_SECRET};
use crate::{Credentials, Ends, Login, LoginRequest, Pass, PassKind, RestAnswer, RestError, Secret, status_error};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// KIS's side of [`Login`].
#[derive(Debug)]
pub struct KisLogin;

/// One issue a minute is allowed; each also sends the account's holder a message.
const ISSUE_INTERVAL: Duration = Duration::from_secs(60);
const VALID_FOR: Duration = Duration::from_secs(24 * 3600);

#[derive(Serialize)]
struct TokenRequest<'a> {
    grant_type: &'static str,
    appkey: &'a str,
    appsecret: &'a str,
}

#[derive(Serialize)]
struct ApprovalRequest<'a> {
    grant_type: &'static str,
    appkey: &'a str,
    secretkey: &'a str,
}

#[derive(Serialize)]
struct RevokeRequest<'a> {
    appkey: &'a str,
    appsecret: &'a str,
    token: &'a str,
}

#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    expires_in: Option<u64>,
    approval_key: Option<String>,
    error_code: Option<String>,
    error_description: Option<String>,
}

impl Login for KisLogin {
    fn request(&self, kind: PassKind, credentials: &Credentials) -> LoginRequest {
        let (appkey, secret) = (credentials.get(APP_KEY), credentials.get(APP_SECRET));
        let (appkey, secret) = (appkey.expose(), secret.expose());
        let grant_type = "client_credentials";
        let (path, body) = match kind {
            PassKind::AccessToken => {
                ("/oauth2/tokenP", serde_json::to_string(&TokenRequest { grant_type, appkey, appsecret: secret }))
            }
            PassKind::SocketKey => {
                ("/oauth2/Approval", serde_json::to_string(&ApprovalRequest { grant_type, appkey, secretkey: secret }))
            }
        };
        LoginRequest {
            path,
            content_type: "application/json; charset=utf-8",
            headers: &[],
            body: Secret::new(body.unwrap_or_default()),
            interval_min: ISSUE_INTERVAL,
        }
    }

    fn pass(&self, kind: PassKind, answer: RestAnswer<'_>) -> Result<Pass, RestError> {
        let read: Result<Answer, _> = serde_json::from_slice(answer.body);
        let Ok(read) = read else {
            let unreadable = RestError::Unreadable { detail: format!("HTTP {}: not a pass", answer.status) };
            return Err(status_error(answer).unwrap_or(unreadable));
        };
        if let Some(code) = read.error_code {
            let detail = format!("{} ({code})", read.error_description.unwrap_or_default());
            return Err(match code.as_str() {
                "EGW00133" => RestError::RateLimited { retry_after: Some(ISSUE_INTERVAL), detail },
                "EGW00103" | "EGW00105" | "EGW00205" | "EGW00206" | "EGW02004" => RestError::Refused { detail },
                _ => RestError::Unavailable { retry_after: None, detail },
            });
        }
        let secret = match kind {
            PassKind::AccessToken => read.access_token,
            PassKind::SocketKey => read.approval_key,
        };
        match secret.filter(|secret| !secret.is_empty()) {
            Some(secret) => {
                let valid_for = read.expires_in.map_or(VALID_FOR, Duration::from_secs);
                Ok(Pass { secret: Secret::new(secret), ends: Ends::After(valid_for) })
            }
            // The body is not shown: whatever it holds may be a pass.
            None => Err(RestError::Unavailable { retry_after: None, detail: format!("HTTP {}: no pass in it", answer.status) }),
        }
    }

    /// Only of access tokens: an approval key ends by itself.
    fn revocation(&self, _: PassKind, credentials: &Credentials, pass: &Secret) -> LoginRequest {
        let (appkey, secret) = (credentials.get(APP_KEY), credentials.get(APP_SECRET));
        let body = RevokeRequest { appkey: appkey.expose(), appsecret: secret.expose(), token: pass.expose() };
        LoginRequest {
            path: "/oauth2/revokeP",
            body: Secret::new(serde_json::to_string(&body).unwrap_or_default()),
            ..self.request(PassKind::AccessToken, credentials)
        }
    }

    fn for_socket(&self) -> PassKind {
        PassKind::SocketKey
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(kind: PassKind, status: u16, body: &str) -> Result<Pass, RestError> {
        KisLogin.pass(kind, RestAnswer { status, retry_after: None, body: body.as_bytes() })
    }

    #[test]
    fn both_passes_are_asked_for_and_read_by_their_own_names() {
        let credentials = Credentials::new([(APP_KEY, Secret::new("the-key")), (APP_SECRET, Secret::new("the\"secret"))]);
        let token = KisLogin.request(PassKind::AccessToken, &credentials);
        assert_eq!(token.path, "/oauth2/tokenP");
        assert_eq!(token.body.expose(), r#"{"grant_type":"client_credentials","appkey":"the-key","appsecret":"the\"secret"}"#);
        let key = KisLogin.request(PassKind::SocketKey, &credentials);
        assert!(key.path == "/oauth2/Approval" && key.body.expose().contains(r#""secretkey":"the\"secret""#));
        let issued =
            pass(PassKind::AccessToken, 200, r#"{"access_token":"abc","token_type":"Bearer","expires_in":3600}"#).unwrap();
        assert_eq!((issued.secret.expose(), issued.ends), ("abc", Ends::After(Duration::from_secs(3_600))));
        let issued = pass(PassKind::SocketKey, 200, r#"{"approval_key":"a-b"}"#).unwrap();
        assert_eq!((issued.secret.expose(), issued.ends), ("a-b", Ends::After(VALID_FOR)));
        assert!(!format!("{credentials:?} {token:?} {issued:?}").contains("secret\\\""), "secrets are not printed");
        assert!(!format!("{token:?} {issued:?}").contains("a-b"));
    }

    #[test]
    fn errors_are_read_from_the_body_whatever_the_status_and_bodies_are_not_shown() {
        let outcome = |status, body: &str| pass(PassKind::AccessToken, status, body).unwrap_err();
        let limited = outcome(403, r#"{"error_description":"once a minute","error_code":"EGW00133"}"#);
        assert!(matches!(limited, RestError::RateLimited { retry_after: Some(ISSUE_INTERVAL), .. }), "{limited:?}");
        assert_eq!(outcome(200, r#"{"error_description":"no such key","error_code":"EGW00103"}"#).outcome(), "refused");
        assert_eq!(outcome(500, r#"{"error_code":"EGW00301"}"#).outcome(), "unavailable");
        assert_eq!(outcome(502, "<html>Bad gateway</html>").outcome(), "unavailable");
        assert_eq!(outcome(200, "<html>maintenance</html>").outcome(), "unavailable");
        let odd = outcome(200, r#"{"acces_token":"eyJ0"}"#);
        assert!(odd.retryable() && !odd.to_string().contains("eyJ0"), "{odd}");
    }
}
