//! The one pass Kiwoom issues: a token for requests and socket alike, for about a day.
//!
//! It is bound to the address it was asked from (code 8010). The broker's error codes stand in brackets within a message, whatever the status and
//! the number beside it. **Source**: the broker's manual on au10001 and au10002, read 2026-11.
//!
//! Next: `frame.rs`.

use super::{APP_KEY, SECRET_KEY};
use crate::krx::korean_time;
use crate::{Credentials, Ends, Login, LoginRequest, Pass, PassKind, RestAnswer, RestError, Secret, status_error};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Kiwoom's side of [`Login`].
#[derive(Debug)]
pub struct KiwoomLogin;

/// The broker states none; one issue a minute is what others allow.
const ISSUE_INTERVAL: Duration = Duration::from_secs(60);
/// Where the answer does not say.
const VALID_FOR: Duration = Duration::from_secs(24 * 3600);
const CONTENT_TYPE: &str = "application/json;charset=UTF-8";

#[derive(Serialize)]
struct TokenRequest<'a> {
    grant_type: &'static str,
    appkey: &'a str,
    secretkey: &'a str,
}

#[derive(Serialize)]
struct RevokeRequest<'a> {
    appkey: &'a str,
    secretkey: &'a str,
    token: &'a str,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    /// `YYYYMMDDHHMMSS` in Korea.
    expires_dt: Option<String>,
    return_msg: Option<String>,
}

impl Login for KiwoomLogin {
    fn request(&self, _: PassKind, credentials: &Credentials) -> LoginRequest {
        let (appkey, secret) = (credentials.get(APP_KEY), credentials.get(SECRET_KEY));
        let body = TokenRequest { grant_type: "client_credentials", appkey: appkey.expose(), secretkey: secret.expose() };
        LoginRequest {
            path: "/oauth2/token",
            content_type: CONTENT_TYPE,
            headers: &[("api-id", "au10001")],
            body: Secret::new(serde_json::to_string(&body).unwrap_or_default()),
            interval_min: ISSUE_INTERVAL,
        }
    }

    fn pass(&self, _: PassKind, answer: RestAnswer<'_>) -> Result<Pass, RestError> {
        let read: Result<Answer, _> = serde_json::from_slice(answer.body);
        let Ok(read) = read else {
            let unreadable = RestError::Unreadable { detail: format!("HTTP {}: not a pass", answer.status) };
            return Err(status_error(answer).unwrap_or(unreadable));
        };
        if let Some(token) = read.token.filter(|token| !token.is_empty()) {
            let named = read.expires_dt.as_deref().and_then(|text| text.split_at_checked(8));
            let until = named.and_then(|(date, time)| korean_time("expires_dt", date, time).ok());
            return Ok(Pass { secret: Secret::new(token), ends: until.map_or(Ends::After(VALID_FOR), Ends::At) });
        }
        // The message is the broker's own text and holds no pass.
        let detail = format!("HTTP {}: {}", answer.status, read.return_msg.as_deref().unwrap_or("no pass in it"));
        Err(match read.return_msg.as_deref().and_then(code_in) {
            Some(1700) => RestError::RateLimited { retry_after: None, detail },
            Some(8001 | 8002 | 8010 | 8011 | 8012 | 8020 | 8030 | 8031 | 8040 | 8050) => RestError::Refused { detail },
            _ if answer.status == 429 => RestError::RateLimited { retry_after: None, detail },
            _ => RestError::Unavailable { retry_after: None, detail },
        })
    }

    fn revocation(&self, _: PassKind, credentials: &Credentials, pass: &Secret) -> LoginRequest {
        let (appkey, secret) = (credentials.get(APP_KEY), credentials.get(SECRET_KEY));
        let body = RevokeRequest { appkey: appkey.expose(), secretkey: secret.expose(), token: pass.expose() };
        LoginRequest {
            path: "/oauth2/revoke",
            headers: &[("api-id", "au10002")],
            body: Secret::new(serde_json::to_string(&body).unwrap_or_default()),
            ..self.request(PassKind::AccessToken, credentials)
        }
    }

    /// There is no other pass.
    fn for_socket(&self) -> PassKind {
        PassKind::AccessToken
    }
}

/// The broker's own code in a message: `…[8005:Token이 유효하지 않습니다]` or `…[CODE=8005, MESSAGE=…]`.
pub(super) fn code_in(message: &str) -> Option<u32> {
    let (_, inside) = message.split_once('[')?;
    let digits = inside.trim_start_matches("CODE=");
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use marketflow_model::Timestamp;

    fn pass(status: u16, body: &str) -> Result<Pass, RestError> {
        KiwoomLogin.pass(PassKind::AccessToken, RestAnswer { status, retry_after: None, body: body.as_bytes() })
    }

    #[test]
    fn one_token_serves_both_and_ends_when_the_broker_says() {
        let credentials = Credentials::new([(APP_KEY, Secret::new("the-key")), (SECRET_KEY, Secret::new("the\"secret"))]);
        let asked = KiwoomLogin.request(KiwoomLogin.for_socket(), &credentials);
        assert_eq!((asked.path, asked.headers), ("/oauth2/token", &[("api-id", "au10001")][..]));
        assert_eq!(asked.body.expose(), r#"{"grant_type":"client_credentials","appkey":"the-key","secretkey":"the\"secret"}"#);
        let issued = pass(200, r#"{"expires_dt":"20261121083000","token_type":"bearer","token":"abc","return_code":0}"#).unwrap();
        let ends = Timestamp::parse("2026-11-20T23:30:00Z").unwrap();
        assert_eq!((issued.secret.expose(), issued.ends), ("abc", Ends::At(ends)));
        assert_eq!(pass(200, r#"{"token":"abc","return_code":0}"#).unwrap().ends, Ends::After(VALID_FOR));
        let revoked = KiwoomLogin.revocation(PassKind::AccessToken, &credentials, &issued.secret);
        assert_eq!(revoked.path, "/oauth2/revoke");
        assert_eq!(revoked.body.expose(), r#"{"appkey":"the-key","secretkey":"the\"secret","token":"abc"}"#);
        assert!(!format!("{asked:?} {issued:?} {revoked:?}").contains("abc"), "secrets are not printed");
    }

    #[test]
    fn errors_are_told_apart_by_the_code_in_their_message() {
        let outcome = |status, body: &str| pass(status, body).unwrap_err().outcome();
        assert_eq!(
            outcome(200, r#"{"return_code":3,"return_msg":"인증에 실패했습니다[8001:App Key 검증에 실패했습니다]"}"#),
            "refused"
        );
        assert_eq!(
            outcome(200, r#"{"return_code":"5","return_msg":"초과[1700:허용된 요청 개수를 초과하였습니다]"}"#),
            "rate_limited"
        );
        assert_eq!(outcome(429, r#"{"return_code":5}"#), "rate_limited");
        assert_eq!(outcome(200, r#"{"return_code":2,"return_msg":"[8009:Token 발급에 실패했습니다]"}"#), "unavailable");
        assert_eq!(outcome(502, "<html>Bad gateway</html>"), "unavailable");
        assert_eq!(outcome(200, "<html>maintenance</html>"), "unavailable");
        assert_eq!(code_in("접속을 종료합니다 [CODE=8005, MESSAGE=Token이 유효하지 않습니다]"), Some(8005));
        assert_eq!((code_in("no brackets"), code_in("[x")), (None, None));
    }
}
