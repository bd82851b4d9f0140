//! The words of the command line, as clap reads them. Values are parsed here, by the types that they become.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{ArgGroup, Args, Parser, Subcommand};
use postern_model::{
    ApiKeyId, ApiKeyName, Fqdn, GroupName, PortSet, ResourceName, SiteName, TagName, Target, TokenId, UserName,
    token::HostPort,
};

use super::{
    activity::words::{ActivityServeWords, ActivityWords},
    inquiry::{ChangeWords, ExplainWords, WhoCanWords},
    policies::PolicyWords,
    relays::RelayWords,
};
use crate::{api::audit, serve};

/// The longest that a join token may live.
const TOKEN_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);

/// Decides who reaches which private resource, and tells the nodes.
#[derive(Debug, Parser)]
#[command(name = "postern-coordinator", version, propagate_version = true)]
pub(super) struct Cli {
    /// Which coordinator of this machine, by its state directory.
    #[arg(
        long,
        global = true,
        env = "POSTERN_COORDINATOR_STATE_DIR",
        default_value = "/var/lib/postern-coordinator",
        value_name = "DIR"
    )]
    pub(super) state_dir: PathBuf,
    /// Print JSON: one object, or one list.
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Speak to a coordinator elsewhere; needs an API key. Unless given, the key's own address is used.
    #[arg(long, global = true, value_name = "https://HOST:PORT")]
    pub(super) url: Option<Url>,
    /// Read the API key from this file. Without it, POSTERN_API_KEY in the environment counts, unless --state-dir is given.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) api_key_file: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) words: Words,
}

#[derive(Debug, Subcommand)]
pub(super) enum Words {
    /// Run the coordinator in the foreground.
    Serve(ServeWords),
    /// People, or what acts as one.
    #[command(subcommand)]
    User(UserWords),
    /// Sets of users.
    #[command(subcommand)]
    Group(GroupWords),
    /// Places, each with its gateways.
    #[command(subcommand)]
    Site(SiteWords),
    /// Where nodes meet that can't reach each other.
    #[command(subcommand)]
    Relay(RelayWords),
    /// What is protected.
    #[command(subcommand)]
    Resource(ResourceWords),
    /// Who may reach what.
    #[command(subcommand)]
    Policy(PolicyWords),
    /// Why someone may or may not reach a resource.
    Explain(ExplainWords),
    /// Who can reach a resource.
    WhoCan(WhoCanWords),
    /// What changes have come to at the gateways.
    #[command(subcommand)]
    Change(ChangeWords),
    /// Join tokens, with which devices enrol.
    #[command(subcommand)]
    Token(TokenWords),
    /// Enrolled machines.
    #[command(subcommand)]
    Device(DeviceWords),
    /// What devices may reach right now.
    #[command(subcommand)]
    Grant(GrantWords),
    /// Who reached what: decisions and flows.
    #[command(subcommand)]
    Activity(ActivityWords),
    /// What happened: a log that can't be altered in secret.
    #[command(subcommand)]
    Audit(AuditWords),
    /// Keys for using the admin API remotely.
    #[command(subcommand, name = "apikey")]
    ApiKey(ApiKeyWords),
}

#[derive(Debug, Args)]
pub(super) struct ServeWords {
    /// Where to listen: UDP for nodes, TCP for the admin API. Port 8443 on every address unless given.
    #[arg(long, value_name = "ADDR:PORT", value_parser = listen_address)]
    pub(super) listen: Option<SocketAddr>,
    /// Where nodes reach this coordinator; goes into tokens, and is kept for later starts.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) public_address: Option<HostPort>,
    /// How long a grant holds unless it is renewed.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = lease)]
    pub(super) lease: Duration,
    /// Do not forward packets between nodes that can't reach each other, which the coordinator else does on the same port.
    #[arg(long)]
    pub(super) no_relay: bool,
    #[command(flatten)]
    pub(super) activity: ActivityServeWords,
}

#[derive(Debug, Subcommand)]
pub(super) enum UserWords {
    /// Add a user.
    Add {
        /// Like alice or alice@example.com.
        name: UserName,
        /// A group to join; may be repeated.
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<GroupName>,
    },
    /// List all users.
    List,
    /// Cut a user's access, and keep everything else.
    Suspend {
        /// The user's name.
        name: UserName,
    },
    /// Give a suspended user their access back.
    Resume {
        /// The user's name.
        name: UserName,
    },
    /// Remove a user with all their devices, tokens and policies.
    Remove {
        /// The user's name.
        name: UserName,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum GroupWords {
    /// Add a group.
    Add {
        /// Like eng.
        name: GroupName,
    },
    /// Who is in a group.
    #[command(subcommand)]
    Member(MemberWords),
    /// List all groups.
    List,
    /// Remove a group with its policies.
    Remove {
        /// The group's name.
        name: GroupName,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum MemberWords {
    /// Put a user into a group.
    Add {
        /// The group's name.
        group: GroupName,
        /// The user's name.
        user: UserName,
    },
    /// Take a user out of a group.
    Remove {
        /// The group's name.
        group: GroupName,
        /// The user's name.
        user: UserName,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum SiteWords {
    /// Add a site.
    Add {
        /// Like office.
        name: SiteName,
    },
    /// List all sites, with their gateways.
    List,
    /// Let nothing pass through a gateway any more; what does, moves to the others of its site.
    Drain {
        /// The site's name.
        site: SiteName,
        /// The gateway's id or name.
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        gateway: String,
        /// Also if no other gateway of the site is connected, so that nothing there can be reached.
        #[arg(long)]
        force: bool,
    },
    /// Let a drained gateway carry again.
    Undrain {
        /// The site's name.
        site: SiteName,
        /// The gateway's id or name.
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        gateway: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ResourceWords {
    /// Add a resource.
    Add(NewResource),
    /// List all resources.
    List,
    /// Change a resource; what is not given stays as it is.
    Edit(ResourceEdit),
    /// Remove a resource with its policies.
    Remove {
        /// The resource's name.
        name: ResourceName,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("open").required(true).multiple(true).args(["tcp", "udp", "icmp"]))]
pub(super) struct NewResource {
    /// Like wiki; it answers under that name in the network's zone.
    pub(super) name: ResourceName,
    /// The site whose gateways reach it.
    #[arg(long)]
    pub(super) site: SiteName,
    /// Its address, or a host name that the gateway resolves.
    #[arg(long, value_name = "HOST|IP")]
    pub(super) target: Target,
    /// Open TCP ports, like 80,443 or 8000-8100 or any.
    #[arg(long, value_name = "PORTS")]
    pub(super) tcp: Option<PortSet>,
    /// Open UDP ports.
    #[arg(long, value_name = "PORTS")]
    pub(super) udp: Option<PortSet>,
    /// Let it be pinged.
    #[arg(long)]
    pub(super) icmp: bool,
    /// Another DNS name under which it answers; may be repeated.
    #[arg(long = "alias", value_name = "FQDN")]
    pub(super) aliases: Vec<Fqdn>,
    /// A group of resources that it belongs to; may be repeated.
    #[arg(long = "tag", value_name = "TAG")]
    pub(super) tags: Vec<TagName>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true)
    .args(["target", "tcp", "udp", "icmp", "aliases", "no_alias", "tags", "no_tag"]))]
pub(super) struct ResourceEdit {
    /// The resource's name.
    pub(super) name: ResourceName,
    /// Its address, or a host name that the gateway resolves.
    #[arg(long, value_name = "HOST|IP")]
    pub(super) target: Option<Target>,
    /// Open TCP ports, or none.
    #[arg(long, value_name = "PORTS")]
    pub(super) tcp: Option<PortSet>,
    /// Open UDP ports, or none.
    #[arg(long, value_name = "PORTS")]
    pub(super) udp: Option<PortSet>,
    /// Whether it can be pinged.
    #[arg(long, value_name = "true|false")]
    pub(super) icmp: Option<bool>,
    /// The DNS names under which it answers besides its own, in place of those that it has; may be repeated.
    #[arg(long = "alias", value_name = "FQDN")]
    pub(super) aliases: Vec<Fqdn>,
    /// Take all aliases away.
    #[arg(long, conflicts_with = "aliases")]
    pub(super) no_alias: bool,
    /// The groups of resources that it belongs to, in place of those that it has; may be repeated.
    #[arg(long = "tag", value_name = "TAG")]
    pub(super) tags: Vec<TagName>,
    /// Take all tags away.
    #[arg(long, conflicts_with = "tags")]
    pub(super) no_tag: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenWords {
    /// Make a join token. It is shown once.
    Create(NewToken),
    /// List all join tokens, spent ones too.
    List,
    /// Take a join token back; devices that enrolled with it stay.
    Withdraw {
        /// As 'token list' shows it.
        id: TokenId,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("owner").required(true).args(["user", "site"]))]
pub(super) struct NewToken {
    /// The devices become this user's.
    #[arg(long)]
    pub(super) user: Option<UserName>,
    /// The devices become gateways of this site.
    #[arg(long)]
    pub(super) site: Option<SiteName>,
    /// How long it can be used, like 30m, 1h or 7days.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = token_life)]
    pub(super) expires: Duration,
    /// How many devices can enrol with it.
    #[arg(long, value_name = "COUNT", default_value_t = 1, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) uses: u32,
}

#[derive(Debug, Subcommand)]
pub(super) enum DeviceWords {
    /// List all devices, revoked ones too.
    List,
    /// Shut a device out for good; it stays listed.
    Revoke {
        /// Its id or name.
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        device: String,
    },
    /// Shut a device out and forget it.
    Remove {
        /// Its id or name.
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        device: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum GrantWords {
    /// List all grants in force.
    List,
}

#[derive(Debug, Subcommand)]
pub(super) enum AuditWords {
    /// List entries: the last ones, or those after an entry.
    List {
        /// Only entries after the one with this id.
        #[arg(long, value_name = "ID", allow_negative_numbers = true)]
        after: Option<u64>,
        /// How many at most.
        #[arg(long, value_name = "COUNT", default_value_t = audit::DEFAULT_LIMIT, allow_negative_numbers = true,
            value_parser = clap::value_parser!(u32).range(1..=i64::from(audit::MAX_LIMIT)))]
        limit: u32,
    },
    /// Check that no entry was altered, removed or inserted.
    Verify,
}

#[derive(Debug, Subcommand)]
pub(super) enum ApiKeyWords {
    /// Make an API key. It is shown once.
    Create {
        /// What it is for, like backup or terraform.
        name: ApiKeyName,
    },
    /// List all API keys.
    List,
    /// Revoke an API key.
    Revoke {
        /// As 'apikey list' shows it.
        id: ApiKeyId,
    },
}

/// Where a coordinator's API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url(pub(super) HostPort);

impl FromStr for Url {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.strip_prefix("https://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        let address = address.and_then(|address| address.parse().ok());
        let wrong =
            || format!("'{text}' is not a coordinator's URL: write it like https://coordinator.example.com:8443");
        address.map(Self).ok_or_else(wrong)
    }
}

pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse().ok().filter(|address: &SocketAddr| address.port() != 0);
    address
        .ok_or_else(|| format!("'{text}' is not ADDR:PORT: write it like 0.0.0.0:{0} or [::]:{0}", serve::DEFAULT_PORT))
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| format!("'{text}' is not a duration: write it like 30m, 1h or 7days"))
}

/// As the coordinator would say it, but before it is asked.
fn token_life(text: &str) -> Result<Duration, String> {
    let life = duration(text)?;
    let is_possible = life >= Duration::from_millis(1) && life <= TOKEN_LIFE;
    is_possible.then_some(life).ok_or_else(|| format!("a join token holds for 1ms to 366days, not {text}"))
}

fn lease(text: &str) -> Result<Duration, String> {
    let lease = duration(text)?;
    if (Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(&lease) {
        Ok(lease)
    } else {
        Err(format!("a lease of {text} makes no sense: give 1s to 1day, like 10m"))
    }
}
