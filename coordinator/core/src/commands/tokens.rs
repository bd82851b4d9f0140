//! Join tokens.

use std::time::Duration;

use postern_model::{
    change::Change,
    record::{Owner, Token},
};

use super::{Result, conflict, invalid};
use crate::{Command, Env, TokenOwner, Touched, draft::Draft};

/// The longest life of a join token.
const MAX_TOKEN_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);
/// The most devices that one join token may enrol.
const MAX_TOKEN_USES: u32 = 1000;

impl Draft<'_> {
    pub(super) fn create_token(&mut self, command: &Command, env: &mut Env<'_>) -> Result<Touched> {
        let Command::CreateToken { owner, expires_in, uses, secret_hash } = command else { unreachable!("dispatched") };
        let id = env.id(postern_model::TokenId::from_bytes);
        if expires_in.as_millis() == 0 || *expires_in > MAX_TOKEN_LIFE {
            return Err(invalid(
                "a join token lives at least a moment and at most a year: give --expires like 1h or 7days".into(),
            ));
        }
        if !(1..=MAX_TOKEN_USES).contains(uses) {
            return Err(invalid(format!(
                "a join token enrols at least 1 and at most {MAX_TOKEN_USES} devices: give --uses so"
            )));
        }
        let (record, label) = match owner {
            TokenOwner::User(name) => {
                let user = self.user(name)?;
                if user.suspended {
                    return Err(conflict(format!("user '{name}' is suspended; resume it before you give it a device")));
                }
                (Owner::User(user.id), format!("user:{name}"))
            }
            TokenOwner::Site(name) => (Owner::Site(self.site(name)?.id), format!("site:{name}")),
        };
        let expires_at = env.now.plus(*expires_in);
        let details: [(&str, &dyn ToString); 3] =
            [("owner", &label), ("uses", uses), ("expires_at", &expires_at.unix_millis())];
        self.note("token.create", format!("token:{id}"), &details);
        self.change(Change::PutToken(Token {
            id,
            secret_hash: *secret_hash,
            owner: record,
            uses_left: *uses,
            expires_at,
            withdrawn: false,
            created_at: self.now,
        }));
        Ok(Touched::Token(id))
    }
}
