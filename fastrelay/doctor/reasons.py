"""Why a finding matters: who rejects, junks or delays mail because of it, and who says so.

What large providers want of bulk senders (5,000 messages a day and more; Gmail and Yahoo since February 2024, Outlook
since May 2025) is published in Google's "Email sender guidelines" and "Gmail SMTP errors and codes" (where the reply
codes are from; 4.7.x delays, 5.7.x rejects), Yahoo's "Sender requirements and recommendations", and Microsoft's "Fix
NDR error 550 5.7.515 in Outlook.com". What GMX and Comcast answer is as senders have met it. RFCs are named by number.
"""

SPF = (
    "Gmail (4.7.27, 5.7.27), Outlook (550 5.7.515) and Yahoo want SPF of bulk senders to pass, and delay, junk or "
    "reject mail without it"
)
SPF_PERMERROR = f"a record that cannot be evaluated lets no mail pass (RFC 7208 4.6, 8.7); {SPF}"
SPF_LOOKUPS = "receivers stop at 10 terms that ask the DNS, and then count the record as none (RFC 7208 4.6.4)"
SPF_OPEN = "anybody may send for the domain, so its SPF counts for nothing, and spammers will find it"
SPF_PTR = "ptr is slow, and receivers may pass over it; it should not be used any more (RFC 7208 5.5)"
HELO_SPF = "bounces have no reverse-path, so their SPF is that of the EHLO name (RFC 7208 2.3, 2.4)"
DKIM = (
    "Gmail (4.7.30, 5.7.30), Outlook (550 5.7.515) and Yahoo want mail of bulk senders to be signed by the sender "
    "domain, and delay, junk or reject it without"
)
DKIM_KEY = "signatures that do not verify count as none: DMARC then hangs on SPF alone, and forwarded mail fails it"
DKIM_SIZE = "Gmail wants 1024 bits at least and recommends 2048; shorter keys can be broken and are ignored (RFC 8301)"
DKIM_TEST = "t=y asks receivers to treat signed mail as if it were unsigned (RFC 6376 3.6.1)"
DMARC = (
    "Gmail (4.7.31, 5.7.40), Outlook (550 5.7.515) and Yahoo want bulk senders to have a DMARC policy for the From "
    "domain, at least p=none, and delay, junk or reject mail without it"
)
DMARC_ALIGNED = (
    "DMARC passes only if SPF or DKIM passes for a domain that fits the From domain; Gmail (4.7.32, 5.7.32; 5.7.26 "
    "where neither passes), Outlook (550 5.7.515) and Yahoo want that of bulk senders"
)
DMARC_ONE_LEG = (
    "with one of the two only, its next fault makes all mail fail DMARC; forwarding breaks SPF, lists break DKIM"
)
DMARC_RUA = "without aggregate reports (rua) nobody tells you that mail fails DMARC (RFC 9990)"
DMARC_RUA_OUTSIDE = "reports go to another domain only if it agrees, by a record of its own (RFC 9990)"
DMARC_FORM = "receivers ignore what they cannot read; a policy may then be weaker than you think (RFC 9989 4.7)"
DMARC_SEVERAL = "with several records at one name none of them counts, as if there were no policy (RFC 9989 4.10)"
PTR = (
    "Gmail (4.7.23, 5.7.25), GMX (554 Bad DNS PTR resource record), Comcast (554) and Yahoo want a PTR record that "
    "resolves back to the address, and delay or reject mail without"
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
RESOLVER_REMOTE = "the AD bit of an answer is only as good as the way to the nameserver (RFC 7672 2.1)"
OUTBOUND_TLS = "Gmail (4.7.29) and Yahoo want TLS of bulk senders; GMX, Orange and Comcast want it, too"
UNSUBSCRIBE = "Gmail and Yahoo want one-click unsubscribing in bulk mail (RFC 8058), honoured in two days"
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
