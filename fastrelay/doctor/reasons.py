"""Why a finding matters: who rejects, junks or delays mail because of it, and who says so.

The large providers' rules for bulk senders (5,000 messages a day and more; Gmail and Yahoo since February 2024, Outlook
since May 2025) are published in Google's "Email sender guidelines", Yahoo's "Sender requirements" and Microsoft's
"Outlook's new requirements for high-volume senders"; the RFCs are named by number.
"""

BULK_RULES = "their rules for bulk senders of 2024 and 2025"

SPF = f"Gmail, Yahoo and Outlook want SPF to pass from bulk senders, and junk or reject mail without it ({BULK_RULES})"
SPF_PERMERROR = (
    "a record that cannot be evaluated counts as none: Gmail, Yahoo and Outlook then see no SPF (RFC 7208 4.6)"
)
SPF_LOOKUPS = "receivers stop at 10 terms that ask the DNS, and then count the record as none (RFC 7208 4.6.4)"
SPF_OPEN = "anybody may send for the domain, so its SPF counts for nothing, and spammers will find it"
SPF_PTR = "ptr is slow, and receivers may pass over it; it should not be used any more (RFC 7208 5.5)"
HELO_SPF = "bounces have no reverse-path, so their SPF is that of the EHLO name (RFC 7208 2.3, 2.4)"
DKIM = (
    "Gmail, Yahoo and Outlook want a DKIM signature of the sender domain from bulk senders; Outlook rejects without "
    f"(550 5.7.515) ({BULK_RULES})"
)
DKIM_KEY = "signatures that do not verify count as none: DMARC then hangs on SPF alone, and forwarded mail fails it"
DKIM_SIZE = "Gmail wants 1024 bits at least and recommends 2048; shorter keys can be broken and are ignored (RFC 8301)"
DKIM_TEST = "t=y asks receivers to treat signed mail as if it were unsigned (RFC 6376 3.6.1)"
DMARC = (
    "Gmail, Yahoo and Outlook want a DMARC policy, at least p=none, of the From domain of bulk mail; Gmail defers and "
    f"rejects without (550 5.7.26), Outlook rejects (550 5.7.515) ({BULK_RULES})"
)
DMARC_ALIGNED = (
    "DMARC passes only if SPF or DKIM passes for a domain that fits the From domain; Gmail, Yahoo and Outlook reject "
    f"bulk mail where neither does ({BULK_RULES})"
)
DMARC_ONE_LEG = (
    "with one of the two only, its next fault makes all mail fail DMARC; forwarding breaks SPF, lists break DKIM"
)
DMARC_RUA = "without aggregate reports (rua) nobody tells you that mail fails DMARC (RFC 9990)"
DMARC_RUA_OUTSIDE = "reports go to another domain only if it agrees, by a record of its own (RFC 9990)"
DMARC_FORM = "receivers ignore what they cannot read; a policy may then be weaker than you think (RFC 9989 4.7)"
DMARC_SEVERAL = "with several records at one name none of them counts, as if there were no policy (RFC 9989 4.10)"
PTR = (
    "Gmail rejects mail from an address without a PTR record that resolves back to it (550 5.7.25), and Yahoo wants "
    f"one too ({BULK_RULES})"
)
PTR_GENERIC = "filters take a name made of the address for a home connection, and score or refuse its mail"
EHLO = (
    "filters compare the EHLO name with the address, and hosts with reject_unknown_helo_hostname (Postfix) refuse a "
    "name that does not resolve (RFC 5321 4.1.4)"
)
EHLO_PTR = "some filters score an EHLO name that is not the PTR name; it costs nothing to let them agree"
ADDRESS = "SPF, PTR and block lists are about the address that the MX hosts see; this is not one they can see"
MX = (
    "bounces and complaints go to the sender domain; hosts with reject_unknown_sender_domain (Postfix) refuse mail "
    "from one that takes none (RFC 7505 4.2)"
)
MX_FALLBACK = "without MX the address record is used (RFC 5321 5.1); some receivers distrust such a domain"
BLOCK_LIST = "MX hosts that ask this list reject or junk every message from the address"
BLOCK_LIST_REFUSED = "the list does not answer public or over-used resolvers, so this says nothing about the address"
CERTIFICATE = "clients that check it (as they should before AUTH) will not hand mail over"
RESOLVER = (
    "without validation DANE policies of recipient domains are not seen, and forged DNS answers are believed (RFC 7672)"
)
RESOLVER_REMOTE = "an answer's AD bit is only as good as the way to the nameserver (RFC 7672 2.1, RFC 8484)"
OUTBOUND_TLS = f"Gmail wants TLS from bulk senders; GMX, Orange and Comcast want it, too ({BULK_RULES})"
UNSUBSCRIBE = (
    f"Gmail and Yahoo want one-click unsubscribing in marketing mail (RFC 8058), honoured in two days ({BULK_RULES})"
)
PORT_25 = "many hosting companies block outbound port 25; no mail can be delivered then"
SMART_HOST = "all mail goes to it, so none leaves"
CLOCK = (
    "Date fields, signatures (t=, x=), TLS certificates and warm-up days depend on the clock; wrong dates are junked"
)
OPEN_FILES = "a relay without free descriptors refuses clients and cannot connect"
PORT_RANGE = "each connection to an MX host takes a local port; when they run out, connecting fails"
DISK_SPEED = "a message is acknowledged when its group is synced, so the disk's syncs bound how fast mail is taken in"
DISK_ROOM = "below spool.reserve new mail is refused with 452"
DISK_KIND = "accepted mail must outlive a restart of the host"
SECRETS = "who can read them can sign mail as you, or send it in your name"
MTA_STS = (
    "senders that look for it do not deliver, bounces either, to hosts that an enforced policy leaves out (RFC 8461)"
)
TLS_RPT = "a broken record means that nobody reports failures of TLS towards the domain (RFC 8460)"
