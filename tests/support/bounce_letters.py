"""Letters of mail systems that write no machine-readable report, and letters that only look like one.

Written by hand after the formats' descriptions: who writes what where, with addresses of our own.
LETTERS: name → (message, what it is, the recipients' addresses). Each is told apart by its words, its place for the
recipient and its place for the error.
"""

# ruff: noqa: E501 - letters stand as they are, in many languages
from __future__ import annotations

import base64
import quopri

LETTERS: dict[str, tuple[bytes, str, list[str]]] = {}
R = "reader@far.example"
TWO = "other@far.example"
HEAD = """Received: from relay.news.example (relay.news.example [192.0.2.7]) by mx.far.example; Mon, 2 Nov 2026 08:00:00 +0000
Message-ID: <issue-47.reader@news.example>
From: Example News <news@news.example>
To: somebody@list.example
Reply-To: editor@news.example
Subject: The garden in November
"""


def letter(
    name: str,
    text: str,
    *recipients: str,
    subject: str = "Undeliverable mail",
    sender: str = "MAILER-DAEMON@mx.far.example",
    more: str = "Return-Path: <>\n",
    what: str = "bounce",
    charset: str = "utf-8",
    encoding: str = "8bit",
    html: bool = False,
    to: str = "bounces@news.example",
    attached: bool = False,
) -> None:
    """Keep a letter of one text, or of a text and the message that came back with it."""
    assert name not in LETTERS, name
    octets = text.encode(charset)
    if encoding == "base64":
        octets = base64.encodebytes(octets)
    elif encoding == "quoted-printable":
        octets = quopri.encodestring(octets)
    kind = (
        f"Content-Type: text/{'html' if html else 'plain'}; charset={charset}\nContent-Transfer-Encoding: {encoding}\n"
    )
    if not subject.isascii():
        subject = f"=?utf-8?B?{base64.b64encode(subject.encode()).decode()}?="
    header = f"{more}From: {sender}\nTo: {to}\nSubject: {subject}\nMessage-ID: <b1@mx.far.example>\nMIME-Version: 1.0\n"
    if attached:
        built = (
            f'{header}Content-Type: multipart/mixed; boundary="=_p"\n\nThis is a MIME message.\n\n--=_p\n{kind}\n'.encode()
            + octets
            + f"\n--=_p\nContent-Type: message/rfc822\n\n{HEAD}\nHello.\n\n--=_p--\n".encode()
        )
    else:
        built = (header + kind + "\n").encode() + octets
    LETTERS[name] = (built, what, list(recipients))


# -- qmail and what descends from it ----------------------------------------------------------------------------------

letter(
    "qmail_two",
    f"Hi. This is the qmail-send program at mx.far.example.\nI'm afraid I wasn't able to deliver your message to the following addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\n<{R}>:\n192.0.2.9 failed after I sent the message.\nRemote host said: 554 5.7.1 Spam\n\n<{TWO}>:\nSorry, I couldn't find any host named far.example. (#5.1.2)\n\n--- Below this line is a copy of the message.\n\n{HEAD}",
    R,
    TWO,
    subject="failure notice",
)
letter(
    "qmail_to_itself",
    f"Hi. This is the qmail-send program at far.example.\nI'm afraid I wasn't able to deliver your message to the following addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\n<{R}>:\n192.0.2.9 does not like recipient.\nRemote host said: 552 Error: disk quota exceeded\nGiving up on 192.0.2.9.\n\n--- Below this line is a copy of the message.\n",
    R,
    subject="failure notice",
    to=R,
)
letter(
    "qmail_spanish",
    f"Hi. This is the qmail-send program at mx.far.example.\nSu mensaje no pudo ser entregado a las siguientes direcciones.\nEste es un error permanente.\n\n<{R}>:\nEl usuario no existe. (#5.1.1)\n\n--- Mensaje original a partir de esta linea.\n\n{HEAD}",
    R,
    subject="failure notice",
)
letter(
    "qmail_german",
    f"Hallo! Dies ist das qmail-send Programm auf mx.far.example.\nIhre Nachricht konnte an die folgenden Adressen nicht zugestellt werden.\n\n<{R}>:\nSorry, no mailbox here by that name. (#5.1.1)\n\n--- Below this line is a copy of the message.\n\n{HEAD}",
    R,
    subject="failure notice",
)
letter(
    "qmail_yahoo_html",
    f"I'm afraid I wasn't able to deliver the following message.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\nSubject: The garden\nTo: {R}\n\n---Below this line is a copy of the message.\n\n{HEAD}",
    R,
    subject="",
    sender="MAILER-DAEMON@yahoo.com",
    html=True,
    more="",
)
letter(
    "yahoo_2014",
    f"Sorry, we were unable to deliver your message to the following address.\n\n<{R}>:\nRemote host said:\n550 5.2.2 <{R}>... Mailbox Full\n[RCPT_TO]\n\n--- Below this line is a copy of the message.\n\n{HEAD}",
    R,
    subject="Failure Notice",
    sender="MAILER-DAEMON@yahoo.com",
)
letter(
    "yahoo_account",
    f"Message from yahoo.co.uk.\nUnable to deliver message to the following address(es).\n\n<{R}>:\nThis user doesn't have a far.example account ({R}) [0]\n\n--- Original message follows.\n\n{HEAD}",
    R,
    subject="Delivery failure",
)
letter(
    "x4_unable",
    f"Hi. The mail gateway at far.example was unable to deliver your message to the following addresses.\n\n<{R}>: Mailbox quota exceeded\n\n--- Original message follows.\n\n{HEAD}",
    R,
    subject="failure notice",
)
letter(
    "x4_agent",
    f"This is the mail delivery agent at far.example.\nI was not able to deliver your message to the following addresses.\n\n<{R}>:\nuser is over quota\n\n--- Below this line is a copy of the message.\n\n{HEAD}",
    R,
    subject="failure notice",
    sender="postmaster@far.example",
)
letter(
    "x4_unfortunately",
    f"Unfortunately, your mail was not delivered to the following address:\n\n<{R}>:\nMailbox does not exist\n\n--- Below this line is a copy of the message.\n\n{HEAD}",
    R,
    subject="failure notice",
    sender="mailer@far.example",
)
letter(
    "x4_machine",
    f"This is the machine generated message from mail service.\n\n{R}:\nsorry, recipient mailbox is full\n\n--- Below this line is a copy of the message.\n\n{HEAD}",
    R,
    subject="failure notice",
)
letter(
    "x4_not_a_user",
    f"We're sorry. There's a problem with the e-mail address(es) you're trying to send to. Please verify the address(es) and try again.\n\n<{R}>:\n550 5.1.1 He/Her is not a far.example user\n\n--- Below this line is a copy of the message.\n\n{HEAD}",
    R,
    subject="Delivery failure",
    sender="postmaster@far.example",
)
letter(
    "earthlink_quota",
    f"Sorry, unable to deliver your message to {R} for\nthe following reason:\n\n 552 Quota violation for reader\n\nA copy of the original message below this line:\n\n{HEAD}",
    R,
    subject="failure notice",
    sender="MAILER-DAEMON@far.example",
)
letter(
    "ezmlm_probe_like",
    f"Hi! This is the ezmlm program. I'm managing the\ngarden@lists.example mailing list.\n\nMessages to you from the garden mailing list seem to\nhave been bouncing. I've attached a copy of the first bounce\nmessage I received.\n\nIf this message bounces too, I will send you a probe.\n\n--- Enclosed is a copy of the bounce message I received.\n\nReturn-Path: <>\nHi. This is the qmail-send program at mx.far.example.\n<{R}>:\nno mailbox. (#5.1.1)\n",
    subject="ezmlm warning",
    sender="garden-help@lists.example",
    what="subscription",
    more="Mailing-List: contact garden-help@lists.example; run by ezmlm\n",
)

# -- Exim and what writes like it -------------------------------------------------------------------------------------

EXIM = "This message was created automatically by mail delivery software.\n\n"
letter(
    "exim_unrouteable",
    f"{EXIM}A message that you sent could not be delivered to one or more of its\nrecipients. This is a permanent error. The following address(es) failed:\n\n  {R}\n    Unrouteable address\n  {TWO}\n    all relevant MX records point to non-existent hosts\n\n------ This is a copy of the message, including all the headers. ------\n\n{HEAD}",
    R,
    TWO,
    subject="Mail delivery failed: returning message to sender",
)
letter(
    "exim_3",
    f"This message was created automatically by mail delivery software (Exim).\n\nA message that you sent could not be delivered to all of its recipients. The\nfollowing address(es) failed:\n\n  {R}:\n    SMTP error from remote mailer after RCPT TO:\n    <{R}>: host mx.far.example [192.0.2.9]: 550 5.1.1\n    <{R}>... User unknown\n\n------ This is a copy of the message, including all the headers. ------\n\n{HEAD}",
    R,
    subject="Mail delivery failed: returning message to sender",
)
letter(
    "exim_pipe",
    f"{EXIM}A message that you sent could not be delivered to one or more of its\nrecipients. This is a permanent error. The following address(es) failed:\n\n  pipe to |/usr/local/bin/vacation\n    generated by {R}\n    local delivery failed\n\nThe following text was generated during the delivery attempt:\n\n------ pipe to |/usr/local/bin/vacation\n       generated by {R} ------\n\nno such program\n\n------ This is a copy of the message, including all the headers. ------\n\n{HEAD}",
    R,
    subject="Mail delivery failed: returning message to sender",
)
letter(
    "exim_quota",
    f"{EXIM}A message that you sent could not be delivered to one or more of its\nrecipients. This is a permanent error. The following address(es) failed:\n\n  reader\n    (generated from {R})\n    mailbox is full: retry timeout exceeded\n\n------ This is a copy of the message, including all the headers. ------\n\n{HEAD}",
    R,
    subject="Mail delivery failed: returning message to sender",
)
letter(
    "exim_address_line",
    f"A message that you have sent could not be delivered to one or more\nrecipients.  This is a permanent error.  The following address failed:\n\n  <{R}>: 550 5.1.1 no such mailbox\n\nIncluded is a copy of the message header:\n-----------------------------------------\n{HEAD}",
    R,
    subject="Mail delivery failed: returning message to sender",
    more="Return-Path: <>\nX-MX-Bounce: mta/src/queue/bounce\n",
)
letter(
    "exim_frozen",
    "Message 1A2b3C-0004dE-FG has been frozen (delivery error message).\nThe sender is <news@news.example>.\n\nThe following address(es) have yet to be delivered:\n\n  reader@far.example: Connection timed out\n",
    R,
    subject="Message 1A2b3C-0004dE-FG frozen",
    what="delayed",
    sender="Mail Delivery System <Mailer-Daemon@mx.far.example>",
)
letter(
    "exim_delayed",
    f"{EXIM}A message that you sent has not yet been delivered to one or more of its\nrecipients after more than 24 hours on the queue on mx.far.example.\n\nThe message identifier is:     1A2b3C-0004dE-FG\nThe subject of the message is: The garden in November\nThe date of the message is:    Mon, 2 Nov 2026 08:00:00 +0000\n\nThe address to which the message has not yet been delivered is:\n\n  {R}\n    host mx.far.example [192.0.2.9]\n    Delay reason: SMTP error from remote mail server after RCPT TO:<{R}>: 451 Greylisted\n\nNo action is required on your part. Delivery attempts will continue for\nsome time, and this warning may be repeated at intervals if the message\nremains undelivered.\n",
    R,
    subject="Warning: message 1A2b3C-0004dE-FG delayed 24 hours",
    what="delayed",
    more="Return-Path: <>\nAuto-Submitted: auto-replied\n",
)
letter(
    "mailru",
    f"Это письмо создано автоматически сервером Mail.Ru, отвечать на него не нужно.\n\nК сожалению, Ваше письмо не может быть доставлено одному или нескольким получателям:\n\n  {R}\n    SMTP error from remote mail server after RCPT TO:<{R}>:\n    host mx.far.example [192.0.2.9]: 550 5.2.2 Mailbox Full\n\nРекомендуем Вам проверить корректность указания адресов получателей.\n\n**********************\n\n{EXIM}A message that you sent could not be delivered to one or more of its\nrecipients. This is a permanent error. The following address(es) failed:\n\n  {R}\n    SMTP error from remote mail server after RCPT TO:<{R}>:\n    host mx.far.example [192.0.2.9]: 550 5.2.2 Mailbox Full\n\n------ This is a copy of the message, including all the headers. ------\n\n{HEAD}",
    R,
    subject="Ваше сообщение не доставлено. Mail failure.",
    sender="mailer-daemon@corp.mail.ru",
    more=f"Return-path: <>\nX-Failed-Recipients: {R}\nAuto-Submitted: auto-replied\n",
)
letter(
    "gmx_quoted",
    f'This message was created automatically by mail delivery software.\n\nA message that you sent could not be delivered to one or more of\nits recipients. This is a permanent error. The following address\nfailed:\n\n"{R}":\nSMTP error from remote server after RCPT command:\nhost: mx.far.example\n5.1.1 <{R}>... User Unknown\n\n--- The header of the original message is following. ---\n\n{HEAD}',
    R,
    subject="Mail delivery failed: returning message to sender",
    sender="Mail Delivery System <mailer-daemon@gmx.example>",
)
letter(
    "gmx_reason",
    f"This message was created automatically by mail delivery software.\n\nA message that you sent could not be delivered to one or more of\nits recipients. This is a permanent error. The following address\nfailed:\n\n<{R}>\n\nReason:\ndelivery retry timeout exceeded\n\n--- The header of the original message is following. ---\n\n{HEAD}",
    R,
    subject="Mail delivery failed: returning message to sender",
)
letter(
    "1und1_size",
    f"This message was created automatically by mail delivery software.\n\nA message that you sent could not be delivered to\none or more of its recipients. The following address failed:\n\n{R}\n\nFor the following reason:\n\nMail size limit exceeded. For explanation visit\nhttp://postmaster.provider.example/en/error-messages?ip=%1s\n\n--- The header of the original message is following. ---\n\n{HEAD}",
    R,
    subject="Mail delivery failed: returning message to sender",
)
letter(
    "1und1_host",
    f"This message was created automatically by mail delivery software.\n\nA message that you sent could not be delivered to\none or more of its recipients. This is a permanent error.\nThe following address(es) failed:\n\n{R}:\nSMTP error from remote server for TEXT command, host: mx.far.example (192.0.2.9) reason: 550 5.2.0 Mail rejected\n\n--- The header of the original message is following. ---\n\n{HEAD}",
    R,
    subject="Mail delivery failed: returning message to sender",
)
letter(
    "webde_german",
    f"Diese Nachricht wurde automatisch erzeugt.\n\nIhre E-Mail konnte an folgende Empfänger nicht zugestellt werden:\n\n{R}:\nHost mx.far.example antwortete: 550 5.1.1 User unknown\n\n--- Kopfzeilen der ursprünglichen Nachricht ---\n\n{HEAD}",
    R,
    subject="Unzustellbare E-Mail",
    sender="Mail Delivery System <mailer-daemon@web.example>",
)
letter(
    "zoho_status",
    f"This message was created automatically by mail delivery software.\n A message that you sent could not be delivered to one or more of its recipients. This is a permanent error.\n\n{R} Host not reachable, ERROR CODE :421 - Host not reachable.\n\n[Status: Error, Address: <{R}>, ResponseCode 421, , Host not reachable.]\n\nReceived:from mail.zoho.example by mx.zoho.example\nMessage-ID:<14a3e1e@news.example>\nFrom:News <news@news.example>\nTo:<x@y.example>\n",
    R,
    subject="Undelivered Mail Returned to Sender",
    sender="mailer-daemon@mail.zoho.example",
    more="",
)
letter(
    "facebook_like",
    f"This message was created automatically by Facebook.\n\nA message that you sent could not be delivered to one of its recipients:\n\n{R}\n\n550 5.1.1 RCP-P2 The attempted recipient's preferences prevent messages from being delivered.\n",
    R,
    subject="Sorry, your message could not be delivered",
    sender="Facebook <mailer-daemon@mx.facebook.example>",
)

# -- Sendmail and what writes like it ---------------------------------------------------------------------------------

letter(
    "sendmail_deferred",
    f"The original message was received at Mon, 2 Nov 2026 08:00:00 GMT\nfrom relay.news.example [192.0.2.7]\n\n   ----- The following addresses had permanent fatal errors -----\n<{R}>\n    (reason: 450 4.7.1 Greylisted)\n\n   ----- Transcript of session follows -----\n<{R}>... Deferred: 450 4.7.1 Greylisted\nMessage could not be delivered for 5 days\nMessage will be deleted from queue\n\n   ----- Original message follows -----\n\n{HEAD}",
    R,
    subject="Returned mail: Cannot send message for 5 days",
)
letter(
    "sendmail_expanded",
    f"   ----- The following addresses had permanent fatal errors -----\nreader@inner.example\n    (reason: 550 5.1.1 unknown)\n    (expanded from: <{R}>)\n\n   ----- Transcript of session follows -----\n550 5.1.1 reader@inner.example... User unknown\n",
    R,
    subject="Returned mail: see transcript for details",
)
letter(
    "sendmail_unrecoverable",
    f"   ----- The following addresses have delivery notifications -----\n{R}  (unrecoverable error)\n\n   ----- Transcript of session follows -----\n... while talking to mx.far.example.:\n>>> RCPT To:<{R}>\n<<< 550 Requested action not taken: mailbox unavailable\n550 {R}... User unknown\n\n   ----- Message header follows -----\n{HEAD}",
    R,
    subject="Returned mail: User unknown",
)
letter(
    "sendmail_5_65",
    f"   ----- Transcript of session follows -----\nWhile talking to mx.far.example:\n>>> RCPT To:<{R}>\n<<< 550 <{R}>, User Unknown\n550 <{R}>... User unknown\n421 inner.example (smtp)... Deferred: Connection timed out\n\n   ----- Unsent message follows -----\n{HEAD}",
    R,
    subject="Returned mail: User unknown",
    sender="Mail Delivery Subsystem <MAILER-DAEMON@mx.far.example>",
)
letter(
    "aol_not_accepting",
    "Your mail to the following recipients could not be delivered because they are not accepting mail from news@news.example:\n\tgardener47\n",
    "gardener47@aol.com",
    subject="Mail Delivery Problem",
    sender='"Mail Delivery Subsystem" <MAILER-DAEMON@AOL.com>',
)
letter(
    "active_hunter",
    f"The original message was received at Mon, 2 Nov 2026 08:00:00 +0900\nfrom news.example\n\n  ----- The following addresses had permanent fatal errors -----\n\n>>> {R} <{R}>\n\n  ----- Transcript of session follows -----\n550 sorry, no mailbox here by that name (#5.1.1 - chkusr)\n",
    R,
    subject="FAILURE NOTICE : The garden",
    sender='"MAILER-DAEMON" <MAILER-DAEMON@far.example>',
    attached=True,
)
letter(
    "biglobe",
    f"   ----- The following addresses had delivery problems -----\n{R}\n\n   ----- Non-delivered information -----\nThe number of messages in recipient's mailbox exceeded the local limit.\n",
    R,
    subject="Returned mail: Service unavailable",
    sender="postmaster@biglobe.ne.jp",
    attached=True,
    charset="iso-2022-jp",
    encoding="7bit",
)
letter(
    "mail2000",
    f"The original message was received at Mon, 2 Nov 2026 08:00:00 +0900 (JST) \nfrom news@news.example\n\n---The following addresses had delivery errors---\n\n{R} [User unknown]\n",
    R,
    subject="Returned Mail: User unknown",
    sender='"Mail Deliver System" <MAILER-DAEMON>',
    attached=True,
)
letter(
    "webshield",
    f"   --- The following addresses had delivery problems ---\n\n<{R}>   (Unknown user {R})\n\n",
    R,
    subject="Delivery Status",
    sender="postmaster@far.example",
    attached=True,
)
letter(
    "post_office",
    f"------------------------------------------------------------\nThe following message could not be delivered because the address\n<{R}> does not exist.\n\n  --- Error Detail ---\n550 unknown user\n\n  --- Returned Mail Follows ---\n\n{HEAD}",
    R,
    subject="Mail could not be delivered",
    sender="Mail Administrator <Postmaster@far.example>",
)
letter(
    "post_office_quota",
    f"This message was undeliverable due to the following reason:\n\nThe user(s) account is temporarily over quota.\n\n<{R}>\n\nPlease reply to Postmaster@far.example\nif you feel this message to be in error.\n",
    R,
    subject="Mail System Error - Returned Mail",
    sender="Mail Administrator <Postmaster@far.example>",
    attached=True,
)
letter(
    "post_office_remote",
    f"This Message was undeliverable due to the following reason:\n\nEach of the following recipients was rejected by a remote mail server.\nThe reasons given by the server are included to help you determine why\neach recipient was rejected.\n\n    Recipient: <{R}>\n    Reason:    5.1.1 <{R}>... User Unknown\n\n\nPlease reply to <postmaster@far.example>\nif you feel this message to be in error.\n",
    R,
    subject="Mail System Error - Returned Mail",
    sender="Mail Administrator <postmaster@far.example>",
    attached=True,
)
letter(
    "mmdf",
    f'    Your message was not delivered to the following\n    addresses:\n\n    {R}:  Unknown user name in "{R}"\n\n    Message follows:\n\n{HEAD}',
    R,
    subject="Failed mail  (msg.aa12345)",
    sender="mmdf@far.example (Memo Service)",
)
letter(
    "smail",
    f"|------------------------- Message log follows: -------------------------|\n no valid recipients were found for this message\n|------------------------- Failed addresses follow: ---------------------|\n <{R}> ... unknown host\n|------------------------- Message text follows: ------------------------|\n{HEAD}",
    R,
    subject="mail failed, returning to sender",
)
letter(
    "pmdf",
    f"The message could not be delivered to:\n\n  Addressee: {R}\n  Reason:\n    %MAIL-E-NOSUCHUSR, no such user READER at node FAR.\n\n----------------------------------------\n\n{HEAD}",
    R,
    subject="Undeliverable mail: NOSUCHUSR",
    sender="PMDF Mail Server <Postmaster@far.example>",
)
letter(
    "pmdf_list",
    f"Your message cannot be delivered to the following recipients:\n\n  Recipient address: @far.example:{R}\n  Original address: {R}\n  Reason: illegal host/domain name found\n\n",
    R,
    subject="Delivery Notification: Delivery has failed",
    sender="postmaster@far.example",
    attached=True,
)
letter(
    "vms_mx",
    f"Note: this message was generated automatically.\n\nAn error was detected while processing a message you sent.  A\nmessage header follows the list of error messages.\n\nError description:\n  Error for <{R}>:\n  %MX-E-NOSUCHUSER, no such user\n",
    R,
    subject="Error in message delivery",
    sender="MX Mail System <Postmaster@far.example>",
    attached=True,
)

# -- Postfix and its look-alikes --------------------------------------------------------------------------------------

letter(
    "postfix_old",
    f'This is the Postfix program at host mx.far.example.\n\nI\'m sorry to have to inform you that the message returned\nbelow could not be delivered to one or more destinations.\n\nFor further assistance, please contact <postmaster@far.example>\n\n\t\t\tThe Postfix program\n\n<{R}>: unknown user: "reader"\n<{TWO}>: Name service error for domain far.example: Host not found\n',
    R,
    TWO,
    subject="Undelivered Mail Returned to Sender",
    attached=True,
)
letter(
    "postfix_german",
    f"Dies ist das Mailsystem auf mx.far.example.\n\nIhre Nachricht konnte leider an einen oder mehrere Empfänger nicht\nzugestellt werden. Bei Fragen wenden Sie sich an <hilfe@far.example>.\n\n                   Das Mailsystem\n\n<{R}>: host mx.far.example[192.0.2.9] said: 550 5.1.1 unknown\n    (in reply to RCPT TO command)\n",
    R,
    subject="Undelivered Mail Returned to Sender",
    attached=True,
)
letter(
    "postfix_french",
    f"Ceci est le système de messagerie mx.far.example.\n\nVotre message n'a pas pu être remis à un ou plusieurs destinataires. Il est joint.\n\nPour de l'aide : <postmaster@far.example>\n\n<{R}>: host mx.far.example[192.0.2.9] said: 550 5.1.1 unknown\n    (in reply to RCPT TO command)\n",
    R,
    subject="Courrier non remis",
    attached=True,
)
letter(
    "postfix_delay_text",
    f"This is the mail system at host mx.far.example.\n\n####################################################################\n# THIS IS A WARNING ONLY.  YOU DO NOT NEED TO RESEND YOUR MESSAGE. #\n####################################################################\n\nYour message could not be delivered for more than 4 hour(s).\nIt will be retried until it is 5 day(s) old.\n\n                   The mail system\n\n<{R}>: connect to mx.far.example[192.0.2.9]:25: Connection timed out\n",
    R,
    subject="Delayed Mail (still being retried)",
    what="delayed",
)
letter(
    "postini_text",
    f"This message was not delivered.\n\nThe following recipient was rejected:\n\n    {R}\n\nThe reason given was: 550 5.1.1 no such user - psmtp\n",
    R,
    subject="Undeliverable: The garden",
    sender="postmaster@psmtp.example",
)

# -- Microsoft --------------------------------------------------------------------------------------------------------

letter(
    "exchange4",
    f"\nYour message did not reach some or all of the intended recipients.\n\n      To:\tsomebody@list.example\n      Subject:\tThe garden\n      Sent:\t11/2/26 8:00:00 AM\n\nThe following recipient(s) could not be reached:\n\n      {R} on 11/2/26 8:01:00 AM\n            Recipient Not Found\n            MSEXCH:IMC:FAR:READER:MAIL\n",
    R,
    subject="Undeliverable: The garden",
    sender="System Administrator <postmaster@far.example>",
)
letter(
    "exchange55",
    f"Your message\n\n  To:      somebody@list.example\n  Subject: The garden\n  Sent:    Mon, 2 Nov 2026 08:00:00 +0000\n\ndid not reach the following recipient(s):\n\n{R} on Mon, 2 Nov 2026 08:00:10 +0000\n    The recipient name is not recognized\n\tThe MTS-ID of the original message is: c=us;a= ;p=far;l=MAIL-2611020800Z-1\n    MSEXCH:IMS:FAR:MAIL:SERVER 0 (000C05A6) Unknown Recipient\n",
    R,
    subject="Undeliverable: The garden",
    sender="System Administrator <postmaster@far.example>",
    attached=True,
)
letter(
    "exchange55_smtp",
    f"Your message\n\n  To:      Reader; Other\n  Subject: The garden\n\ndid not reach the following recipient(s):\n\nc=US;a= ;p=Far;o=Mail;dda:SMTP={R}; on Mon, 2 Nov 2026 08:00:10 +0000\n    The recipient name is not recognized\n    MSEXCH:IMS:FAR:MAIL:SERVER 3550 (000B09B6) 550 5.1.1 unknown\n",
    R,
    subject="Undeliverable: The garden",
    sender="System Administrator <postmaster@far.example>",
    attached=True,
)
letter(
    "exchange2000_name",
    f"Your message did not reach some or all of the intended recipients.\n\n      Subject:\tThe garden\n      Sent:\t11/2/2026 8:00 AM\n\nThe following recipient(s) could not be reached:\n\n      {R} on 11/2/2026 8:00 AM\n            The e-mail account does not exist at the organization this message was sent to.\n            <mx.far.example #5.1.1 smtp;550 5.1.1 <{R}>... User unknown>\n",
    R,
    subject="Undeliverable: The garden",
    sender="System Administrator <postmaster@far.example>",
)
letter(
    "exchange2003_display",
    f"Your message did not reach some or all of the intended recipients.\n\n      Subject:\tThe garden\n      Sent:\t11/2/2026 8:00 AM\n\nThe following recipient(s) cannot be reached:\n\n      'Rita Reader' on 11/2/2026 8:00 AM\n            You do not have permission to send to this recipient.\n            <mx.far.example #5.7.1 smtp;550 5.7.1 <{R}>... denied>\n",
    R,
    subject="Undeliverable: The garden",
    sender="System Administrator <postmaster@far.example>",
)
letter(
    "exchange2003_german",
    f"Ihre Nachricht hat einige oder alle Empfänger nicht erreicht.\n\n      Betreff:\tDer Garten\n      Gesendet am:\t02.11.2026 08:00\n\nFolgende(r) Empfänger kann/können nicht erreicht werden:\n\n      {R} am 02.11.2026 08:00\n            Das E-Mail-Konto ist in der Organisation, an die diese Nachricht gesendet wurde, nicht vorhanden.\n            <mx.far.example #5.1.1>\n",
    R,
    subject="Unzustellbar: Der Garten",
    sender="Systemadministrator <postmaster@far.example>",
)
letter(
    "exchange2003_french",
    f"Votre message n'est pas parvenu à certains ou à tous les destinataires.\n\n      Objet :\tLe jardin\n      Date :\t02/11/2026 08:00\n\nImpossible d'atteindre le(s) destinataire(s) suivant(s) :\n\n      {R} le 02/11/2026 08:00\n            Le compte de messagerie n'existe pas.\n            <mx.far.example #5.1.1>\n",
    R,
    subject="Non remis : Le jardin",
    sender="Administrateur système <postmaster@far.example>",
)
letter(
    "exchange2003_spanish",
    f"Su mensaje no llegó a alguno o a todos los destinatarios.\n\n      Asunto:\tEl jardín\n      Enviado el:\t02/11/2026 08:00\n\nNo se puede localizar a los destinatarios siguientes:\n\n      {R} el 02/11/2026 08:00\n            La cuenta de correo no existe.\n            <mx.far.example #5.1.1>\n",
    R,
    subject="No se puede entregar: El jardín",
    sender="Administrador del sistema <postmaster@far.example>",
)
letter(
    "exchange2003_italian",
    f"Il messaggio non è stato recapitato a uno o più destinatari.\n\n      Oggetto:\tIl giardino\n      Inviato:\t02/11/2026 08:00\n\nImpossibile raggiungere i seguenti destinatari:\n\n      {R} il 02/11/2026 08:00\n            L'account di posta elettronica non esiste.\n            <mx.far.example #5.1.1>\n",
    R,
    subject="Non recapitabile: Il giardino",
    sender="Amministratore di sistema <postmaster@far.example>",
)
letter(
    "exchange2003_portuguese",
    f"A sua mensagem não chegou a alguns ou a todos os destinatários.\n\n      Assunto:\tO jardim\n      Enviada:\t02/11/2026 08:00\n\nNão foi possível contactar os seguintes destinatários:\n\n      {R} em 02/11/2026 08:00\n            <mx.far.example #5.1.1>\n",
    R,
    subject="Não é possível entregar: O jardim",
    sender="Administrador do sistema <postmaster@far.example>",
)
letter(
    "exchange2003_dutch",
    f"Uw bericht heeft enkele of alle geadresseerden niet bereikt.\n\n      Onderwerp:\tDe tuin\n      Verzonden:\t2-11-2026 8:00\n\nDe volgende geadresseerde(n) is of zijn niet bereikbaar:\n\n      {R} op 2-11-2026 8:00\n            Het e-mailaccount bestaat niet.\n            <mx.far.example #5.1.1>\n",
    R,
    subject="Niet bestelbaar: De tuin",
    sender="Systeembeheerder <postmaster@far.example>",
)
letter(
    "exchange2003_swedish",
    f"Ditt meddelande nådde inte någon eller några av mottagarna.\n\n      Ämne:\tTrädgården\n\nFöljande mottagare kan inte nås:\n\n      {R} den 2026-11-02 08:00\n            <mx.far.example #5.1.1>\n",
    R,
    subject="Det gick inte att leverera: Trädgården",
    sender="Systemadministratör <postmaster@far.example>",
)
letter(
    "exchange2003_japanese",
    f"メッセージは一部またはすべての受信者に届きませんでした。\n\n      件名: 庭\n      送信日時: 2026/11/02 8:00\n\n以下の受信者にメッセージを配信できませんでした:\n\n      {R} 2026/11/02 8:00\n            <mx.far.example #5.1.1>\n",
    R,
    subject="配信不能: 庭",
    sender="System Administrator <postmaster@far.example>",
    charset="iso-2022-jp",
    encoding="7bit",
)
NDR = "Original message headers:\n\n"
letter(
    "exchange2007",
    f"Delivery has failed to these recipients or distribution lists:\n\n{R}\nThe recipient's e-mail address was not found in the recipient's e-mail system.\n\nDiagnostic information for administrators:\n\nGenerating server: mx.far.example\n\n{R}\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n\n{NDR}{HEAD}",
    R,
    subject="Undeliverable: The garden",
    sender="Microsoft Exchange <MicrosoftExchange329e71ec@far.example>",
)
letter(
    "exchange2010_name",
    f"Delivery has failed to these recipients or groups:\n\nRita Reader ({R})<mailto:{R}>\nThe recipient's mailbox is full and can't accept messages now. Please try resending this message later, or contact the recipient directly.\n\nDiagnostic information for administrators:\n\nGenerating server: mx.far.example\n\n{R}<mailto:{R}>\n#< #5.2.2 smtp;554 5.2.2 mailbox full> #SMTP#\n\n{NDR}{HEAD}",
    R,
    subject="Undeliverable: The garden",
    sender="postmaster@far.example",
)
letter(
    "exchange2010_german",
    f"Fehler bei der Nachrichtenzustellung an folgende Empfänger oder Gruppen:\n\n{R}<mailto:{R}>\nDie eingegebene E-Mail-Adresse konnte nicht gefunden werden. Bei weiteren Fragen wenden Sie sich an helpdesk@far.example.\n\nDiagnoseinformationen für Administratoren:\n\nGenerierender Server: mx.far.example\n\n{R}\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n\nUrsprüngliche Nachrichtenkopfzeilen:\n\n{HEAD}",
    R,
    subject="Unzustellbar: Der Garten",
    sender="Microsoft Outlook <postmaster@far.example>",
)
letter(
    "exchange2010_french",
    f"Échec de la remise pour ces destinataires ou groupes :\n\n{R}\nL'adresse de messagerie entrée est introuvable.\n\nInformations de diagnostic pour les administrateurs :\n\nServeur de génération : mx.far.example\n\n{R}\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n\nEn-têtes de message d'origine :\n\n{HEAD}",
    R,
    subject="Non remis : Le jardin",
    sender="Microsoft Exchange <postmaster@far.example>",
)
letter(
    "exchange2010_spanish",
    f"Error al entregar a los siguientes destinatarios o grupos:\n\n{R}\nNo se encontró la dirección de correo electrónico especificada.\n\nInformación de diagnóstico para administradores:\n\nServidor de generación: mx.far.example\n\n{R}\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n\nEncabezados de mensajes originales:\n\n{HEAD}",
    R,
    subject="No se puede entregar: El jardín",
    sender="Microsoft Exchange <postmaster@far.example>",
)
letter(
    "exchange2010_italian",
    f"Recapito non riuscito per i seguenti destinatari o gruppi:\n\n{R}\nL'indirizzo di posta elettronica immesso non è stato trovato.\n\nInformazioni di diagnostica per gli amministratori:\n\nServer di generazione: mx.far.example\n\n{R}\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n\nIntestazioni originali del messaggio:\n\n{HEAD}",
    R,
    subject="Non recapitabile: Il giardino",
    sender="Microsoft Exchange <postmaster@far.example>",
)
letter(
    "exchange2010_portuguese",
    f"Falha na entrega para estes destinatários ou grupos:\n\n{R}\nO endereço de email inserido não foi encontrado.\n\nInformações de diagnóstico para administradores:\n\nServidor de geração: mx.far.example\n\n{R}\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n\nCabeçalhos de mensagens originais:\n\n{HEAD}",
    R,
    subject="Não entregue: O jardim",
    sender="Microsoft Exchange <postmaster@far.example>",
)
letter(
    "exchange2010_dutch",
    f"De bezorging bij deze geadresseerden of distributielijsten is mislukt:\n\n{R}\nHet e-mailadres is niet gevonden.\n\nDiagnostische gegevens voor beheerders:\n\nServer die het bericht heeft gegenereerd: mx.far.example\n\n{R}\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n\nOorspronkelijke berichtkoppen:\n\n{HEAD}",
    R,
    subject="Onbestelbaar: De tuin",
    sender="Microsoft Exchange <postmaster@far.example>",
)
letter(
    "exchange2010_japanese",
    f"次の受信者またはグループへの配信に失敗しました:\n\n{R}\n入力した電子メール アドレスが見つかりませんでした。\n\n管理者向けの診断情報:\n\n生成サーバー: mx.far.example\n\n{R}\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n\n元のメッセージ ヘッダー:\n\n{HEAD}",
    R,
    subject="配信不能: 庭",
    sender="Microsoft Exchange <postmaster@far.example>",
    encoding="base64",
)
letter(
    "exchange2010_russian",
    f"Сбой доставки следующим получателям или группам:\n\n{R}\nВведенный адрес электронной почты не найден.\n\nДиагностические сведения для администраторов:\n\nСоздающий сервер: mx.far.example\n\n{R}\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n\nИсходные заголовки сообщения:\n\n{HEAD}",
    R,
    subject="Не удается доставить: Сад",
    sender="Microsoft Exchange <postmaster@far.example>",
    encoding="base64",
)
letter(
    "exchange2010_chinese",
    f"传递到以下收件人或组时失败:\n\n{R}\n找不到你输入的电子邮件地址。\n\n管理员的诊断信息:\n\n正在生成服务器: mx.far.example\n\n{R}\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n\n原始邮件头:\n\n{HEAD}",
    R,
    subject="无法送达: 花园",
    sender="Microsoft Exchange <postmaster@far.example>",
    encoding="base64",
)
letter(
    "exchange2010_korean",
    f"다음 받는 사람 또는 그룹에 배달하지 못했습니다.\n\n{R}\n입력한 전자 메일 주소를 찾을 수 없습니다.\n\n관리자를 위한 진단 정보:\n\n생성 서버: mx.far.example\n\n{R}\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n\n원본 메시지 머리글:\n\n{HEAD}",
    R,
    subject="배달되지 않음: 정원",
    sender="Microsoft Exchange <postmaster@far.example>",
    encoding="base64",
)
letter(
    "exchange2010_polish",
    f"Dostarczenie wiadomości do następujących adresatów lub grup nie powiodło się:\n\n{R}\nNie znaleziono adresu e-mail.\n\nInformacje diagnostyczne dla administratorów:\n\nSerwer generujący: mx.far.example\n\n{R}\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n\nOryginalne nagłówki wiadomości:\n\n{HEAD}",
    R,
    subject="Niedostarczalne: Ogród",
    sender="Microsoft Exchange <postmaster@far.example>",
    encoding="quoted-printable",
)
letter(
    "exchange_rejected_html",
    f'<html><body><p><b>mx.far.example rejected your message to the following email addresses:</b></p><p><a href="mailto:{R}">Rita Reader</a> ({R})</p><p>mx.far.example gave this error:<br>&lt;{R}&gt; Recipient not found. &lt;https://far.example/ndr&gt;</p><hr><p>For more tips contact <a href="mailto:helpdesk@far.example">helpdesk@far.example</a>.</p><p>Diagnostic information for administrators:</p><p>Generating server: mx.far.example</p><p>{R}<br>mx.far.example<br>Remote Server returned \'550 5.1.1 &lt;{R}&gt; Recipient not found\'</p><p>Original message headers:</p><pre>{HEAD}</pre></body></html>',
    R,
    subject="Undeliverable: The garden",
    sender="postmaster@far.example",
    html=True,
)
letter(
    "m365_html",
    f'<html><body><table><tr><td>Your message to <a href="mailto:{R}">{R}</a> couldn\'t be delivered.</td></tr><tr><td><b>reader</b> wasn\'t found at <b>far.example</b>.</td></tr><tr><td>news</td><td>Office 365</td><td>reader</td></tr></table><p>Contact <a href="mailto:admin@far.example">admin@far.example</a></p><p>Original Message Details</p><p>Sender Address: news@news.example<br>Recipient Address: {R}</p><p>Error Details</p><p>Reported error: <em>550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient {R} not found by SMTP address lookup</em></p><p>Message Hops</p></body></html>',
    R,
    subject="Undeliverable: The garden",
    sender="Microsoft Outlook <MicrosoftExchange329e71ec88ae4615bbc36ab6ce41109e@far.example>",
    html=True,
)
letter(
    "smtpsvc_delayed",
    f"This is an automatically generated Delivery Status Notification.\n\nTHIS IS A WARNING MESSAGE ONLY.\n\nYOU DO NOT NEED TO RESEND YOUR MESSAGE.\n\nDelivery to the following recipients has been delayed.\n\n       {R}\n\n",
    R,
    subject="Delivery Status Notification (Delay)",
    sender="postmaster@far.example",
    what="delayed",
)
letter(
    "x3_technical",
    f"============================================================================\n     This is an automatically generated Delivery Status Notification.\n\nDelivery to the following recipients failed permanently:\n\n  * {R}\n\n\n============================================================================\n                            Technical details:\n\nSMTP:RCPT host 192.0.2.8: 553 5.3.0 <{R}>... No such user here\n\n\n",
    R,
    subject="Delivery status notification",
    sender="Mail Delivery System <postmaster@far.example>",
    attached=True,
)
letter(
    "x3_aborted",
    f"      This is an automatically generated Delivery Status Notification.     \n\nDelivery to the following recipients was aborted after 4 second(s):\n\n  * {R}\n\n",
    R,
    subject="Delivery status notification",
    sender="Mail Delivery System <postmaster@far.example>",
    attached=True,
)

# -- Google -----------------------------------------------------------------------------------------------------------

letter(
    "gmail_permanent",
    f"Delivery to the following recipient failed permanently:\n\n     {R}\n\nTechnical details of permanent failure: \nGoogle tried to deliver your message, but it was rejected by the server for the recipient domain far.example by mx.far.example. [192.0.2.9].\n\nThe error that the other server returned was:\n550 5.1.1 <{R}>... User unknown\n\n----- Original message -----\n\n{HEAD}",
    R,
    subject="Delivery Status Notification (Failure)",
    sender="Mail Delivery Subsystem <mailer-daemon@googlemail.com>",
)
letter(
    "gmail_german",
    f"Die Zustellung an die folgenden Empfänger ist dauerhaft fehlgeschlagen:\n\n     {R}\n\nTechnische Details zum permanenten Fehler:\nGoogle hat versucht, Ihre Nachricht zu senden. Der Fehler lautete: 550 550 User unknown (state 14).\n\n----- Original message -----\n\n{HEAD}",
    R,
    subject="Delivery Status Notification (Failure)",
    sender="Mail Delivery Subsystem <mailer-daemon@googlemail.com>",
)
letter(
    "google_groups",
    "Hello news@news.example,\n\nWe're writing to let you know that the group you tried to contact (gardeners) may not exist, or you may not have permission to post messages to the group. A few more details on why you weren't able to post:\n\n * You might have spelled or formatted the group name incorrectly.\n * The owner of the group may have removed this group.\n\nIf you have questions related to this or any other Google Group, visit the Help Center at https://groups.google.com/support/.\n\nThanks,\n\nGoogle Groups\n",
    "gardeners@far.example",
    subject="Delivery Status Notification (Failure)",
    sender="Mail Delivery Subsystem <mailer-daemon@googlemail.com>",
    more="Return-Path: <>\nX-Failed-Recipients: gardeners@far.example\n",
)

# -- Domino, Notes, GroupWise -----------------------------------------------------------------------------------------

letter(
    "domino_because",
    f"Your message\n\n  Subject: The garden\n\nwas not delivered to:\n\n  {R}\n\nbecause:\n\n  User reader ({R}) not listed in Domino Directory\n\n",
    R,
    subject=f"DELIVERY FAILURE: User reader ({R}) not listed in Domino Directory",
    sender="Postmaster <postmaster@far.example>",
)
letter(
    "domino_error_only",
    f"Your message\n\n  Subject: The garden\n\nwas not delivered to:\n\n  {R}\n\nbecause:\n\n  Error transferring to MX.FAR.EXAMPLE; SMTP Protocol Returned a Permanent Error 550 5.1.1 unknown\n\n",
    R,
    subject="DELIVERY FAILURE: Error transferring to MX.FAR.EXAMPLE",
    sender="postmaster@far.example",
)
letter(
    "domino_french",
    f"Votre document :\n\n  Le jardin\n\nn'a pas été remis à :\n\n  {R}\n\nparce que :\n\n  Utilisateur reader ({R}) non répertorié dans l'annuaire Domino\n\n",
    R,
    subject="ECHEC DE LA DISTRIBUTION : utilisateur non répertorié",
    sender="postmaster@far.example",
)
letter(
    "domino_german",
    f"Ihre Nachricht\n\n  Betreff: Der Garten\n\nwurde nicht zugestellt an:\n\n  {R}\n\nGrund:\n\n  Benutzer reader ({R}) nicht im Domino-Verzeichnis aufgeführt\n\n",
    R,
    subject="ZUSTELLFEHLER: Benutzer nicht aufgeführt",
    sender="postmaster@far.example",
)
letter(
    "notes_reasons",
    f"------- Failure Reasons  --------\n\nUser not listed in public Name & Address Book\n{R}\n\n------- Returned Message --------\n{HEAD}",
    R,
    subject="Undeliverable message",
    sender="postmaster@far.example",
)
letter(
    "notes_japanese",
    f"------- Failure Reasons  --------\n\nディレクトリのリストにありません\n{R}\n\n------- Returned Message --------\n{HEAD}",
    R,
    subject="Undeliverable message",
    sender="postmaster@far.example",
    charset="iso-2022-jp",
    encoding="7bit",
)
letter(
    "groupwise_user",
    "The message that you sent was undeliverable to the following:\n\treader (user not found)\n\n",
    subject="Message status - undeliverable",
    sender="Mailer-Daemon@far.example",
    attached=True,
)
letter(
    "groupwise_address",
    f"The message that you sent was undeliverable to the following:\n\t{R} (mailbox is full (5.2.2 MBX FULL))\n\nPossibly truncated original message follows:\n\n{HEAD}",
    R,
    subject="Message status - undeliverable",
    sender="Mailer-Daemon@far.example",
)
letter(
    "groupwise_attached",
    f"The attached file had the following undeliverable recipient(s):\n\t{R}\n\nTranscript of session follows:\n   Command: RCPT TO: <{R}>\n  Response: 550 User unknown\n",
    R,
    subject="Message status - undeliverable",
    sender="Mailer-Daemon@far.example",
)

# -- other servers ----------------------------------------------------------------------------------------------------

letter(
    "communigate_failed",
    f"Failed to deliver to '{R}'\nSMTP module(domain far.example) reports:\n host mx.far.example says:\n 550 5.1.1 unknown user\n",
    R,
    subject="Undeliverable mail: The garden",
    sender="<MAILER-DAEMON@far.example>",
    attached=True,
)
letter(
    "communigate_local",
    f"Failed to deliver to '<{R}>'\nLOCAL module(account reader) reports:\n account is full (quota exceeded)\n",
    R,
    subject="Undeliverable mail: The garden",
    sender="<MAILER-DAEMON@far.example>",
    attached=True,
)
letter(
    "mdaemon_session",
    f"The following data may contain sections which represent BASE64 encoded\nfile attachments.\n\nThis message contains a transcript of a failed session.\n\nFailed address: {R}\n\n--- Session Transcript ---\n Mon 2026-11-02 08:00:00: Session 1; child 1\n Mon 2026-11-02 08:00:00: --> RCPT To:<{R}>\n Mon 2026-11-02 08:00:00: <-- 550 5.1.1 no such user\n --- End Transcript ---\n\n: Message contains [1] file attachments\n",
    R,
    subject="Permanent Delivery Failure",
    sender="MDaemon at far.example <MDaemon@far.example>",
)
letter(
    "mdaemon_notice",
    f"MDaemon has identified your message as undeliverable.\n\nYour message to <{R}>, with subject The garden, could not be delivered.\n\nThe attempt(s) at delivery reported: 552 mailbox full\n",
    R,
    subject="Undeliverable mail",
    sender="postmaster@far.example",
)
letter(
    "imail_reached",
    f"User mailbox exceeds allowed size: {R}\n\n\nOriginal message follows.\n\n{HEAD}",
    R,
    subject="Undeliverable Mail",
    sender='"Postmaster" <postmaster@far.example>',
    more="X-Mailer: <SMTP32 v8.22>\n",
)
letter(
    "imail_attempts",
    f"Delivery failed 20 attempts: {R}\n\n\nOriginal message follows.\n\n{HEAD}",
    R,
    subject="Undeliverable Mail",
    sender='"Postmaster" <postmaster@far.example>',
    more="X-Mailer: <SMTP32 v8.22>\n",
)
letter(
    "imail_connection",
    f"undeliverable to {R}\nBody of message generated response:\n550 no thanks\n\nOriginal message follows.\n\n{HEAD}",
    R,
    subject="Undeliverable Mail",
    sender='"Postmaster" <postmaster@far.example>',
    more="X-Mailer: <SMTP32 v8.22>\n",
)
letter(
    "mailenable",
    f"MailEnable: Message Delivery Failure.\n\nThe following recipient(s) could not be reached:\n\n[SMTP:{R}]: Remote SMTP Server Returned: 550 5.1.1 No such user\n\nMessage headers follow:\n\n{HEAD}",
    R,
    subject="Message Delivery Failure",
    sender="Postmaster <postmaster@far.example>",
)
letter(
    "mailenable_reason",
    f"MailEnable: Message could not be delivered to some recipients.\nThe following recipient(s) could not be reached:\n\n   Recipient: [SMTP:{R}]\n   Reason:   The message could not be delivered because the domain name does not appear to be registered.\n\nMessage headers follow:\n\n{HEAD}",
    R,
    subject="Message Delivery Failure",
    sender="Postmaster <postmaster@far.example>",
)
letter(
    "smartermail_reason",
    f"Could not deliver message to the following recipient(s):\n\nFailed Recipient: {R}\nReason: Remote host said: 550 5.1.1 The email account that you tried to reach does not exist.\n\n   -- The header and top 20 lines of the message follows --\n\n{HEAD}",
    R,
    subject="Delivery Failure",
    sender='"System Administrator" <postmaster@far.example>',
)
letter(
    "hmailserver",
    f"Your message did not reach some or all of the intended recipients.\n\n   Sent: Mon, 2 Nov 2026 08:00:00 +0000\n   Subject: The garden\n\nThe following recipient(s) could not be reached:\n\n{R}\n   Error Type: SMTP\n   Remote server (192.0.2.9) issued an error.\n   hMailServer sent: RCPT TO:<{R}>\n   Remote server replied: 550 5.1.1 User unknown\n\nhMailServer\n",
    R,
    subject="Message undeliverable: The garden",
    sender="mailer-daemon@far.example",
)
letter(
    "kerio",
    f"The following message could not be delivered to the recipient(s).\n\n{R}: 550 5.1.1 User unknown\n\nThis message was generated by Kerio Connect.\n",
    R,
    subject="Delivery Status Notification (Failure)",
    sender="postmaster@far.example",
)
letter(
    "surgemail",
    f"Your message could not be delivered for the following reason:\n\n{R}, 550 5.1.1 No such user here\n\n--- Start of original message ---\n{HEAD}",
    R,
    subject="Message could not be delivered",
    sender="SurgeMail <mailer-daemon@far.example>",
)
letter(
    "mailtraq",
    f"Mailtraq was unable to deliver your message to the following recipients:\n\n  {R}\n    550 unknown user\n\n",
    R,
    subject="Undeliverable message",
    sender="Mailtraq <postmaster@far.example>",
)
letter(
    "courier_mta",
    f"This is a delivery status notification from mx.far.example,\nrunning the Courier mail server, version 0.65.0.\n\nThe original message was received on Mon, 2 Nov 2026 08:00:00 +0000\nfrom relay.news.example (192.0.2.7)\n\n---------------------------------------------------------------------------\n\n                           UNDELIVERABLE MAIL\n\nYour message to the following recipients cannot be delivered:\n\n<{R}>:\n    mx.far.example [192.0.2.9]:\n>>> RCPT TO:<{R}>\n<<< 550 5.1.1 User Unknown\n\n---------------------------------------------------------------------------\n\nIf your message was also sent to additional recipients, their delivery\nstatus is not included in this report.\n",
    R,
    subject="NOTICE: mail delivery status.",
    sender='"Courier mail server at mx.far.example" <@>',
    attached=True,
)
letter(
    "courier_delay",
    f"This is a delivery status notification from mx.far.example,\nrunning the Courier mail server.\n\n                  DELAYS IN DELIVERING YOUR MESSAGE\n\nYour message to the following recipients has been delayed:\n\n<{R}>:\n    DNS lookup failed.\n",
    R,
    subject="WARNING: delayed mail.",
    sender='"Courier mail server at mx.far.example" <@>',
    what="delayed",
)
letter(
    "opensmtpd_list",
    f"    Hi!\n\n    This is the MAILER-DAEMON, please DO NOT REPLY to this email.\n\n    An error has occurred while attempting to deliver a message for\n    the following list of recipients:\n\n{R}: 550 5.2.2 <{R}>... Mailbox Full\n\n    Below is a copy of the original message:\n\n{HEAD}",
    R,
    subject="Delivery status notification: error",
    sender="Mailer Daemon <MAILER-DAEMON@mx.far.example>",
    more="",
)
letter(
    "opensmtpd_warning",
    f"    Hi!\n\n    This is the MAILER-DAEMON, please DO NOT REPLY to this email.\n\n    A message is delayed for more than 4 hours for the following\n    list of recipients:\n\n{R}: Network error on destination MXs\n\n    Please note that this is only a temporary failure report.\n    The message is kept in the queue for up to 4 days.\n    You DO NOT NEED to re-send the message to these recipients.\n\n    Below is a copy of the original message:\n\n{HEAD}",
    R,
    subject="Delivery status notification: warning",
    sender="Mailer Daemon <MAILER-DAEMON@mx.far.example>",
    more="",
    what="delayed",
)
letter(
    "haraka_text",
    f"Some messages could not be delivered.\n\nIntended Recipients: <{R}>\n     Failure Reason: 550 5.1.1 Unknown user\n\n",
    R,
    subject="failure notice",
    sender="MAILER-DAEMON@mx.far.example",
)
letter(
    "james_mailet",
    f"Hi. This is the James mail server at mx.far.example.\nI'm afraid I wasn't able to deliver your message to the following addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out. Below\nI include the list of recipients and the reason why I was unable to deliver\nyour message.\n\nFailed recipient(s):\n{R}\n\nError message:\n550 5.1.1 <{R}>: unknown\n",
    R,
    subject="[BOUNCE]",
    sender="postmaster@mx.far.example",
    attached=True,
)
letter(
    "vtext",
    "Error: Invalid user address\n\nError message below:\n550 - Requested action not taken: no such user here\n\nMessage details:\n  Subject: The garden\n  Sent date: Mon Nov 02 08:00:00 GMT 2026\n  MAIL FROM: news@news.example\n  RCPT TO: 5550100@vtext.example\n  From: news@news.example\n  Size (in bytes): 39\n",
    "5550100@vtext.example",
    subject="Re:The garden",
    sender="post_master@vtext.example",
    more="In-Reply-To: <issue-47.reader@news.example>\n",
)
letter(
    "vzwpix",
    "Message could not be delivered to mobile.\nError: No valid recipients for this MM\n\nOriginal Message:\nFrom: Example News <news@news.example>\nTo: 5550100@vzwpix.example\nSubject: The garden\n",
    "5550100@vzwpix.example",
    subject="Undeliverable Message",
    sender="sysadmin@vzwpix.example",
    more="",
)
letter(
    "kddi_full",
    f"Your mail sent on: Mon, 2 Nov 2026 08:00:00 +0900 \n     Could not be delivered to: <{R}> \n     As their mailbox is full.\n",
    R,
    subject="Mail",
    sender="somebody@far.example",
    attached=True,
)
letter(
    "mfilter",
    f"このメールは「m-FILTER」が自動的に生成して送信しています。\nメールサーバーとの通信中、下記の理由により\nこのメールは送信できませんでした。\n\n以下のメールアドレスへの送信に失敗しました。\n{R}\n\n\n-------server message\n550 5.1.1 <{R}>: Recipient address rejected\n\n-------SMTP command\nDATA\n\n-------original message\n{HEAD}",
    R,
    subject="failure notice",
    sender="POSTMASTER <postmaster@far.example>",
    charset="iso-2022-jp",
    encoding="7bit",
    more="X-Mailer: m-FILTER\n",
)
letter(
    "mailfoundry",
    f"Unable to deliver message to: <{R}>\nDelivery failed for the following reason:\nServer mx.far.example[192.0.2.9] failed with: 550 <{R}> No such user here\n\nThis has been a permanent failure.  No further delivery attempts will be made.\n",
    R,
    subject="Message delivery has failed",
    sender="<>",
    attached=True,
)
letter(
    "interscan",
    f"Sent <<< RCPT TO:<{R}>\nReceived >>> 550 5.1.1 <{R}>... user unknown\n\nUnable to deliver message to <{R}>.\n",
    R,
    subject="Mail could not be delivered",
    sender='"InterScan MSS" <postmaster@far.example>',
    attached=True,
)
letter(
    "surfcontrol",
    f"Your message could not be sent.\nA transcript of the attempts to send the message follows.\nThe number of attempts made: 1\nAddressed To: {R}\n\nMon 2 Nov 2026 08:00:00 +0000\nFailed to send to identified host,\n{R}: [192.0.2.9], 550 {R}... No such user\n--- Message non-deliverable.\n",
    R,
    subject="Message could not be delivered",
    sender="<>",
    more="X-Mailer: SurfControl E-mail Filter\n",
    attached=True,
)
letter(
    "mailmarshal_affected",
    f"Your message:\n   From:    news@news.example\n   Subject: The garden\n\nCould not be delivered because of\n\n550 5.1.1 User unknown\n\nThe following recipients were affected: \n    {R}\n\nAdditional Information\n======================\nOriginal Sender:    <news@news.example>\nSender-MTA:         <10.11.12.13>\nReporting-MTA:      <relay.far.example>\nMessageName:        <B549996730000.000000000001.0003.mml>\n",
    R,
    subject='Undeliverable Mail: "The garden"',
    sender="postmaster@far.example",
    more="",
)
letter(
    "x6_errors",
    f"1 error(s):\n\nSMTP Server <mx.far.example> rejected recipient <{R}> \n  (Error following RCPT command). It responded as follows: [550 5.1.1 User unknown]\n\nThe attachment contains the original mail headers.\n",
    R,
    subject="There was an error sending your mail",
    sender="postmaster@far.example",
    attached=True,
)
letter(
    "x6_permanent",
    f"We had trouble delivering your message. Full details follow:\n\nSubject: 'The garden'\nDate: 'Mon, 2 Nov 2026'\n\n1 error(s):\n\nThe following recipients returned permanent errors: {R}.\n\nThe attachment contains the original mail headers.\n",
    R,
    subject="There was an error sending your mail",
    sender="postmaster@far.example",
    attached=True,
)
letter(
    "barracuda",
    f"Your message to: {R}\nwas blocked by our Spam Firewall. The email you sent with the following subject has NOT BEEN DELIVERED:\n\nSubject: The garden\n",
    R,
    subject="**Message you sent blocked by our bulk email filter**",
    sender="Barracuda <postmaster@far.example>",
)
letter(
    "amavis_blocked",
    f"The message <issue-47.reader@news.example> from <news@news.example> to:\n-> {R}\n\nwas blocked by our content filter: spam.\n\nDelivery of the email was stopped!\n",
    R,
    subject="Undeliverable mail, MTA-BLOCKED",
    sender='"Content-filter at mx.far.example" <postmaster@mx.far.example>',
)
letter(
    "mailscanner_none",
    "Our virus detector has just been triggered by a message you sent:-\n  To: reader@far.example\n  Subject: The garden\n  Date: Mon Nov  2 08:00:00 2026\n\nOne or more of the attachments are on the list of unacceptable attachments for this site and will not have been delivered.\n",
    R,
    subject="Warning: E-mail viruses detected",
    sender='"MailScanner" <postmaster@far.example>',
)
letter(
    "mimecast_text",
    f"A message you sent has been rejected by the recipient's mail system.\n\nRecipient: {R}\nReason: 550 Invalid Recipient\n\nFor help contact support@far.example\n",
    R,
    subject="[Postmaster] Email Delivery Failure",
    sender="Mail Delivery System <postmaster@far.example>",
)
letter(
    "zimbra_quota",
    f"This is the mail system at host mx.far.example.\n\nI'm sorry to have to inform you that your message could not\nbe delivered to one or more recipients. It's attached below.\n\nFor further assistance, please send mail to postmaster.\n\n                   The mail system\n\n<{R}>: host mx.far.example[192.0.2.9] said: 452 4.2.2 Over quota\n    (in reply to end of DATA command)\n",
    R,
    subject="Undelivered Mail Returned to Sender",
    attached=True,
)
letter(
    "dovecot_reject",
    f"Your message to <{R}> was automatically rejected:\nQuota exceeded (mailbox for user is full)\n",
    R,
    subject="Rejected: The garden",
    sender="Mail Delivery Subsystem <postmaster@far.example>",
    more="Return-Path: <>\nAuto-Submitted: auto-replied (rejected)\n",
)
letter(
    "cyrus_reject",
    f"Your message was automatically rejected by Sieve, a mail filtering language.\n\nThe following reason was given:\nI do not want this.\n\nFinal-Recipient: rfc822; {R}\n",
    R,
    subject="Automatically rejected mail",
    sender="Mail Sieve Subsystem <postmaster@far.example>",
    more="Return-Path: <>\nAuto-Submitted: auto-replied (rejected)\n",
)
letter(
    "symantec_brightmail",
    f"The message could not be delivered to the following recipients:\n\n{R}\n\nReason: the recipient address was rejected.\n",
    R,
    subject="Delivery failure notification",
    sender="Symantec Messaging Gateway <postmaster@far.example>",
)
letter(
    "lyris_unknown",
    f"The message to {R} bounced for this reason:\n\n550 5.1.1 User unknown\n",
    R,
    subject="Returned mail",
    sender="lyris-noreply@lists.far.example",
    more="Return-Path: <>\n",
)
letter(
    "caiwireless",
    f"   The message could not be delivered to:\n\n      {R}\n\n   Because: mailbox disabled\n",
    R,
    subject="Delivery failure",
    sender="Mail Admin <mailadmin@far.example>",
)

# -- providers in other languages -------------------------------------------------------------------------------------

letter(
    "qq",
    f"抱歉，您的邮件被退回来了……\n\n原邮件信息：\n时间  2026-11-02 08:00:00\n主题  花园\n收件人  {R}\n\n退信原因： 收件人邮件地址（{R}）不存在，邮件无法送达。\nhost mx.far.example said: 550 Mailbox not found\n\n此外，您还可以 点击这里 获取更多关于退信的帮助信息。\n",
    R,
    subject="系统退信/Systems bounce",
    sender="QQMail <PostMaster@qq.example>",
    encoding="base64",
)
letter(
    "netease",
    f"退信通知\n\n抱歉，您的邮件被退回\n\n您发送的邮件由于以下原因无法发送到 {R}\n\nSMTP error, RCPT TO: Host far.example said: 550 User not found\n\n建议您联系 kefu@service.example 咨询。\n",
    R,
    subject="系统退信",
    sender="Postmaster@163.example",
    encoding="base64",
)
letter(
    "taiwan",
    f"您的郵件無法傳送到下列收件人：\n\n{R}\n\n原因：550 User unknown\n",
    R,
    subject="郵件無法傳送",
    sender="postmaster@far.example",
    encoding="base64",
)
letter(
    "naver",
    f"메일 발송 실패 안내\n\n아래 수신자에게 메일이 전송되지 않았습니다.\n\n받는사람 : {R}\n실패원인 : 550 5.1.1 존재하지 않는 사용자\n",
    R,
    subject="메일 발송 실패",
    sender="Mail Delivery System <postmaster@naver.example>",
    encoding="base64",
)
letter(
    "uol",
    f"Sua mensagem não pôde ser entregue ao destinatário abaixo:\n\n  {R}\n\nMotivo: 550 usuário inexistente\n\nDúvidas? Escreva para ajuda@uol.example\n",
    R,
    subject="Mensagem não entregue",
    sender="Mail Delivery System <postmaster@uol.example>",
)
letter(
    "libero",
    f"Il messaggio non è stato consegnato ai seguenti destinatari:\n\n<{R}>: casella piena\n",
    R,
    subject="Mancata consegna",
    sender="postmaster@libero.example",
)
letter(
    "orange",
    f"Votre message n'a pas pu être délivré au destinataire suivant :\n\n{R}\n\nRaison : 550 5.1.1 Adresse inconnue\n\nContact : aide@orange.example\n",
    R,
    subject="Message non délivré",
    sender="postmaster@orange.example",
)
letter(
    "tonline",
    f"|------------------------- Message log follows: -------------------------|\n no valid recipients were found for this message\n|------------------------- Failed addresses follow: ---------------------|\n <{R}> ... transport smtp: 550 user unknown\n|------------------------- Message text follows: ------------------------|\n{HEAD}",
    R,
    subject="mail failed, returning to sender",
    sender="<Mailer-Daemon@t-online.example>",
)
letter(
    "turkish",
    f"İletiniz aşağıdaki alıcıya teslim edilemedi:\n\n{R}\n\n550 5.1.1 kullanıcı bulunamadı\n",
    R,
    subject="Teslim edilemedi: Bahçe",
    sender="postmaster@far.example",
)
letter(
    "czech",
    f"Vaše zpráva nemohla být doručena následujícím příjemcům:\n\n{R}\n\n550 5.1.1 neznámý uživatel\n",
    R,
    subject="Nedoručitelné: Zahrada",
    sender="postmaster@far.example",
)
letter(
    "danish",
    f"Din meddelelse kunne ikke leveres til følgende modtagere:\n\n{R}\n\n550 5.1.1 ukendt bruger\n",
    R,
    subject="Kan ikke leveres: Haven",
    sender="postmaster@far.example",
)
letter(
    "hungarian",
    f"Az Ön üzenete nem kézbesíthető a következő címzetteknek:\n\n{R}\n\n550 5.1.1 ismeretlen felhasználó\n",
    R,
    subject="Kézbesíthetetlen: A kert",
    sender="postmaster@far.example",
)

# -- by words that many have in common --------------------------------------------------------------------------------

letter(
    "generic_sentence",
    f'Delivery of email to this address\n\n"{R}"\n\nhas failed due to a full mailbox.  We have already made numerous\nattempts to deliver this message.\n\nThe first 50 lines of your original message follow:> Received: from mx.news.example (204.202.242.71)\n>  by mail03\n> To: somebody@list.example\n',
    R,
    subject="Mail Delivery Failure",
    sender="Postmaster@far.example",
)
letter(
    "generic_hotpop",
    f"The user {R} you attempted to send an email to has exceeded the allowed limit.\n",
    R,
    subject="Mailbox is over quota",
    sender="postmaster@far.example",
)
letter(
    "generic_hostinger",
    f"This is an automated message. Your email to {R} was rejected by the server: 550 5.7.1 blocked.\n\nVisit https://help.far.example/?address={TWO} for help or write to help@far.example.\n",
    R,
    subject="Your message was not delivered",
    sender="no-reply@far.example",
)
letter(
    "generic_non_delivery",
    f'--- Non-Delivery Report ---\nThe email below could not be delivered to the following user:\n\n"{R}" <{R}>\n\nOld message:\n\nHello, please write to editor@news.example.\n',
    R,
    subject="Non-Delivery: Your message to garden-talk awaits moderator approval",
    sender="<admin@far.example>",
    more=f'x-Original-To: "{R}" <{R}>\nPrecedence: bulk\nX-Mailman-Version: 2.1.5\n',
)
letter(
    "generic_two_languages",
    f"***********************************************\nVotre message n'a pas pu etre delivre a\n{R}\n\n***********************************************\nYour message could not be delivered to\n{R}\n",
    R,
    subject="RE: Your message to garden-talk awaits moderator approval : non remis (delivery failed)",
    sender="gateway@far.example",
    more="",
)
letter(
    "left_company",
    "Rita Reader is no longer with the company. This mailbox is not monitored.\nPlease write to info@far.example instead.\n",
    subject="Automatic reply: The garden",
    sender=f"Rita Reader <{R}>",
    what="auto_reply",
    more="Auto-Submitted: auto-replied\n",
)

# -- that are no bounce -----------------------------------------------------------------------------------------------

VACATION = {
    "english": ("Out of Office: The garden", "I am out of the office until 9 November. In urgent cases write to deputy@far.example.\nYour message will not be delivered to anyone else."),
    "german": ("Automatische Antwort: Der Garten", "Ich bin bis zum 9. November nicht im Büro. In dringenden Fällen: vertretung@far.example."),
    "french": ("Réponse automatique : Le jardin", "Je suis absente jusqu'au 9 novembre. En cas d'urgence : collegue@far.example."),
    "spanish": ("Respuesta automática: El jardín", "Estoy fuera de la oficina hasta el 9 de noviembre. Escriba a colega@far.example."),
    "italian": ("Risposta automatica: Il giardino", "Sono fuori ufficio fino al 9 novembre. Scrivere a collega@far.example."),
    "portuguese": ("Resposta automática: O jardim", "Estou ausente até 9 de novembro. Contacte colega@far.example."),
    "dutch": ("Automatisch antwoord: De tuin", "Ik ben afwezig tot 9 november. Mail naar collega@far.example."),
    "swedish": ("Autosvar: Trädgården", "Jag är inte på kontoret. Kontakta kollega@far.example."),
    "danish": ("Automatisk svar: Haven", "Jeg er ikke på kontoret. Kontakt kollega@far.example."),
    "finnish": ("Automaattinen vastaus: Puutarha", "Olen poissa. Ota yhteyttä kollega@far.example."),
    "polish": ("Automatyczna odpowiedź: Ogród", "Jestem poza biurem. Proszę pisać na kolega@far.example."),
    "czech": ("Automatická odpověď: Zahrada", "Jsem mimo kancelář. Pište na kolega@far.example."),
    "hungarian": ("Automatikus válasz: A kert", "Nem vagyok az irodában. Írjon ide: kollega@far.example."),
    "turkish": ("Otomatik Yanıt: Bahçe", "Ofis dışındayım. meslektas@far.example adresine yazın."),
    "russian": ("Автоматический ответ: Сад", "Меня нет на месте. Пишите на kollega@far.example."),
    "greek": ("Αυτόματη απάντηση: Ο κήπος", "Απουσιάζω. Γράψτε στο kollega@far.example."),
    "japanese": ("自動応答: 庭", "不在にしております。kollega@far.example までご連絡ください。"),
    "chinese": ("自动答复: 花园", "我目前不在办公室。请联系 kollega@far.example。"),
    "taiwanese": ("自動回覆: 花園", "我目前不在辦公室。請聯絡 kollega@far.example。"),
    "korean": ("자동 회신: 정원", "현재 부재중입니다. kollega@far.example 로 연락하십시오."),
    "romanian": ("Răspuns automat: Grădina", "Sunt plecat din birou. Scrieți la coleg@far.example."),
    "arabic": ("رد تلقائي: الحديقة", "أنا خارج المكتب. راسلوا kollega@far.example"),
    "hebrew": ("תשובה אוטומטית: הגן", "אני מחוץ למשרד. כתבו אל kollega@far.example"),
}  # fmt: skip
for language, (title, words) in VACATION.items():
    letter(
        f"vacation_{language}",
        words + "\n",
        subject=title,
        sender=f"Rita Reader <{R}>",
        what="auto_reply",
        more="",
        encoding="base64",
    )

letter(
    "vacation_null_path",
    "I am on holiday until 9 November.\nIf this is urgent contact deputy@far.example, she can be reached by phone.\n",
    subject="Re: The garden",
    sender=R,
    what="auto_reply",
    more="Return-Path: <>\nPrecedence: bulk\nX-Autoreply: yes\n",
)
letter(
    "vacation_moved",
    "Hello,\n\nmy address has changed. My old mailbox is closed, your message was not delivered. Please use rita@new.example from now on.\n",
    subject="Address change",
    sender=R,
    what="auto_reply",
    more="Auto-Submitted: auto-replied\n",
)
letter(
    "ticket_opened",
    "Thank you for contacting us. Your request has been received, ticket [#4711].\n",
    subject="[#4711] The garden",
    sender="support@far.example",
    what="auto_reply",
    more="Auto-Submitted: auto-generated\n",
)
letter(
    "challenge_boxtrapper",
    "The message you sent requires that you verify that you\nare a real live human being and not a spam source.\n\nTo complete this verification, simply reply to this message and leave\nthe subject line intact.\n\nThe headers of the message sent from your address are shown below:\n\n"
    + HEAD,
    subject="Your email requires verification verify#abc123",
    sender=R,
    what="challenge",
    more="",
)
letter(
    "challenge_tmda",
    'This message was created automatically by mail delivery software (TMDA).\n\nYour message attached below is being held because the address\n<news@news.example> has not been verified.\n\nTo release your message for delivery, please send an empty message\nto the following address, or use your mailer\'s "Reply" feature.\n\n   reader-confirm-1098767.abc@far.example\n\nThis confirmation verifies that your message is legitimate and not\njunk-mail.\n',
    subject="Please confirm your message",
    sender=R,
    what="challenge",
    more="X-Delivery-Agent: TMDA/1.0.3\n",
)
letter(
    "challenge_earthlink",
    "I apologize for this automatic reply to your email.\n\nTo control spam, I now allow incoming messages only from senders I\nhave approved beforehand.\n\nIf you would like to be added to my list of approved senders, please\nfill out the short request form (see link below).\n",
    subject="Re: The garden",
    sender=R,
    what="challenge",
    more="Precedence: auto_reply\n",
)
letter(
    "challenge_spamarrest",
    "Please click on the link below to verify your email address and have your message delivered to my inbox.\n\nhttps://spamarrest.example/a2?AQ\n",
    subject="Re: The garden (verification)",
    sender=R,
    what="challenge",
    more="",
)
letter(
    "subscription_mailman",
    'Mailing list subscription confirmation notice for mailing list Garden\n\nWe have received a request for subscription of your email address,\n"news@news.example", to the garden@lists.example mailing list.\n',
    subject="confirm 54a76cfa0b6c1c2b9a4a31b1b5e6f7a8b9c0d1e2",
    sender="garden-request@lists.example",
    what="subscription",
    more="X-Mailman-Version: 2.1.39\nPrecedence: bulk\n",
)
letter(
    "subscription_held",
    "Your mail to 'Garden' with the subject\n\n    The garden\n\nIs being held until the list moderator can review it for approval.\n",
    subject="Your message to Garden awaits moderator approval",
    sender="garden-bounces@lists.example",
    what="subscription",
    more="X-Mailman-Version: 2.1.39\nPrecedence: bulk\n",
)
letter(
    "subscription_closed",
    "You are not allowed to post to this mailing list, and your message has\nbeen automatically rejected.  If you think that your messages are\nbeing rejected in error, contact the mailing list owner at\ngarden-owner@lists.example.\n",
    subject="The garden",
    sender="garden-bounces@lists.example",
    what="subscription",
    more="X-Mailman-Version: 2.1.39\nPrecedence: bulk\nList-Id: <garden.lists.example>\n",
)
letter(
    "subscription_ezmlm",
    "Hi! This is the ezmlm program. I'm managing the\ngarden@lists.example mailing list.\n\nTo confirm that you would like\n\n   news@news.example\n\nadded to the garden mailing list, please send\na short reply to this address:\n\n   garden-sc.1098.abc-news=news.example@lists.example\n",
    subject="confirm subscribe to garden@lists.example",
    sender="garden-help@lists.example",
    what="subscription",
    more="",
)
letter(
    "newsletter",
    "All about the garden: why did my mail bounce? A message could not be delivered to somebody@far.example, says a reader.\n",
    subject="Why mail bounces: the newsletter",
    sender="Example News <news@other.example>",
    what="other",
    more="List-Unsubscribe: <https://other.example/u>\n",
)
letter(
    "person_asks",
    f"Hi,\n\nI sent mail to {R} and got this:\n\n> Hi. This is the qmail-send program at mx.far.example.\n> I'm afraid I wasn't able to deliver your message to the following addresses.\n> <{R}>:\n> no mailbox (#5.1.1)\n\nWhat does it mean?\n",
    subject="Re: failure notice",
    sender="Paul Person <paul@person.example>",
    what="other",
    more="",
)
letter(
    "person_forwards",
    f"FYI\n\n---------- Forwarded message ----------\nFrom: Mail Delivery System <MAILER-DAEMON@mx.far.example>\n\nThis is the mail system at host mx.far.example.\n\n<{R}>: host mx.far.example[192.0.2.9] said: 550 5.1.1 unknown\n",
    subject="Fwd: Undelivered Mail Returned to Sender",
    sender="Paul Person <paul@person.example>",
    what="other",
    more="",
)
letter(
    "person_writes",
    "Could you send the garden book to other@far.example? I was unable to reach him, his mailbox is full.\n",
    subject="The garden book",
    sender="Paul Person <paul@person.example>",
    what="other",
    more="",
)
letter(
    "read_receipt_words",
    "Your message\n\n  To: reader@far.example\n  Subject: The garden\n\nwas read on 2/11/2026 8:00.\n",
    subject="Read: The garden",
    sender=R,
    what="auto_reply",
    more="",
)
letter(
    "deleted_unread",
    "Your message\n\n  To: reader@far.example\n  Subject: The garden\n\nwas deleted without being read on 2/11/2026 8:00.\n",
    subject="Not read: The garden",
    sender=R,
    what="auto_reply",
    more="",
)
letter(
    "postmaster_quota_notice",
    "Your mailbox news@news.example is almost full: 95 % of 1 GB are used.\nPlease delete messages, or write to help@news.example.\n",
    subject="Mailbox quota warning",
    sender="postmaster@news.example",
    what="other",
    more="Return-Path: <>\n",
)
letter(
    "spam_digest",
    "These messages were held in your quarantine:\n\n  spammer@bad.example   Cheap watches\n  other@bad.example     You won\n\nRelease them at https://q.news.example/.\n",
    subject="Spam Quarantine Notification",
    sender="postmaster@news.example",
    what="other",
    more="",
)

# -- success, delay and failure told alike ----------------------------------------------------------------------------

letter(
    "success_words",
    f"Your message was successfully delivered to {R}.\n",
    R,
    subject="Delivery Notification: Delivery successful",
    sender="postmaster@far.example",
    what="notice",
)
letter(
    "success_sendmail",
    f"   ----- The following addresses had successful delivery notifications -----\n<{R}>  (relayed to non-DSN-aware mailer)\n\n   ----- Transcript of session follows -----\n<{R}>... relayed; expect no further notifications\n",
    R,
    subject="Return receipt",
    sender="Mail Delivery Subsystem <MAILER-DAEMON@far.example>",
    what="notice",
)
letter(
    "success_courier",
    f"                           DELIVERY COMPLETED\n\nYour message to the following recipients has been delivered:\n\n<{R}>\n",
    R,
    subject="NOTICE: mail delivery status.",
    sender='"Courier mail server at far" <@>',
    what="notice",
)
letter(
    "success_opensmtpd",
    f"    Hi!\n\n    This is the MAILER-DAEMON, please DO NOT REPLY to this email.\n\n    Your message was successfully delivered to these recipients.\n\n{R}: ok\n",
    R,
    subject="Delivery status notification: success",
    sender="Mailer Daemon <MAILER-DAEMON@far.example>",
    what="notice",
)
letter(
    "exchange2010_delay",
    f"Delivery is delayed to these recipients or groups:\n\nRita ({R})<mailto:{R}>\n\nSubject: The garden\n\nThis message hasn't been delivered yet. Delivery will continue to be attempted.\n\nDiagnostic information for administrators:\n\nGenerating server: mx\n\n{R}\nRemote Server at far.example returned '400 4.4.7 Message delayed'\n\nOriginal message headers:\n\n{HEAD}",
    R,
    subject="Delivery delayed: The garden",
    sender="postmaster@far.example",
    what="delayed",
)
GMAIL = "Mail Delivery Subsystem <mailer-daemon@googlemail.com>"
GOOGLE = {
    "english": f"** Address not found **\n\nYour message wasn't delivered to {R} because the address couldn't be found, or is unable to receive mail.\n\nLearn more here: https://support.google.com/mail/?p=NoSuchUser\n\nThe response was:\n\nThe account {TWO} does not exist.\n",
    "spanish": f"** No se ha encontrado la dirección **\n\nTu mensaje no se ha entregado a {R} porque no se ha encontrado la dirección.\n",
    "french": f"** Adresse introuvable **\n\nVotre message n'est pas parvenu à {R}, car l'adresse est introuvable.\n",
    "german": f"** Adresse nicht gefunden **\n\nIhre Nachricht wurde nicht an {R} zugestellt, weil die Adresse nicht gefunden wurde.\n",
    "russian": f"** Адрес не найден **\n\nВаше письмо не доставлено на адрес {R}, поскольку он не найден.\n",
    "japanese": f"** アドレス不明 **\n\n{R} にメールは配信されませんでした。アドレスが見つかりません。\n",
    "turkish": f"** Adres bulunamadı **\n\nİletiniz {R} adresine teslim edilemedi çünkü adres bulunamadı.\n",
}  # fmt: skip
for language, words in GOOGLE.items():
    letter(f"gmail_{language}_heading", words, R, subject="Delivery Status Notification (Failure)", sender=GMAIL)
letter(
    "gmail_incomplete",
    f"** Delivery incomplete **\n\nThere was a temporary problem delivering your message to {R}. Gmail will retry for 46 more hours.\n",
    R,
    subject="Delivery Status Notification (Delay)",
    sender=GMAIL,
    what="delayed",
)
letter(
    "ironport",
    f"The following message to <{R}> was undeliverable.\nThe reason for the problem:\n5.1.0 - Unknown address error 550-'No such user'\n",
    R,
    subject="Delivery Status Notification (Failure)",
    sender='"Mail Delivery System" <MAILER-DAEMON@ironport.far.example>',
)
letter(
    "powermta_text",
    f"Hello, this is the mail server on mta.far.example.\n\nI am sending you this message to inform you on the delivery status of a\nmessage you previously sent.  Immediately below you will find a list of\nthe affected recipients.\n\n  <{R}>\n    delivery failed; will not continue trying\n",
    R,
    subject="Delivery report",
    sender="postmaster@mta.far.example",
)
letter(
    "puremessage",
    f"The e-mail message you sent to:\n\n {R}\n\nwith subject: The garden\n\nhas been rejected as it contains a blocked attachment.\n",
    R,
    subject="Message rejected",
    sender="PureMessage <postmaster@far.example>",
)
letter(
    "winmail_chinese", f"无法将邮件发送至 {R}\n原因: 550 User not found\n", R, subject="邮件退回通知", encoding="base64"
)
letter(
    "coremail",
    f"对不起，您发往 {R} 的邮件由于对方服务器拒收而被退回。\n",
    R,
    subject="系统退信",
    sender="postmaster@sina.example",
    encoding="base64",
)
letter(
    "docomo",
    f"次のあて先へのメッセージはエラーのため送信できませんでした。\n{R}\n",
    R,
    subject="Undelivered Mail",
    charset="iso-2022-jp",
    encoding="7bit",
)
letter(
    "exim_sent_by",
    f"{EXIM}A message sent by\n\n  <bounces@news.example>\n\ncould not be delivered to one or more of its recipients. The following\naddress(es) failed:\n\n  inner@inner.example\n    (ultimately generated from {R})\n    all hosts have been failing for a long time\n\n------ This is a copy of the message, including all the headers. ------\n",
    R,
    subject="Mail delivery failed",
)
letter(
    "aol_attachments",
    "Sorry news@news.example. Your mail to the following recipients could not be delivered because they are not accepting mail with attachments or embedded images:\n\tgardener47\n",
    "gardener47@aol.com",
    subject="Mail Delivery Problem",
    sender="Mail Delivery Subsystem <MAILER-DAEMON@aol.com>",
    more="",
)
letter(
    "mailfolder_full",
    f"Your mail message to the following address(es) could not be delivered. This\nis a permanent error. If you are still having difficulty please contact\nCustomer Support.\n\n<{R}>:\nchild status 100...The e-mail message could not be delivered because the user's mailfolder is full.\n\n--- Below this line is a copy of the message.\n\n{HEAD}",
    R,
    subject="failure notice",
)
letter(
    "parcel",
    "Your order could not be delivered today. Write to shop@other.example. Undeliverable parcels are returned to sender@shop.example.\n",
    subject="Your parcel could not be delivered",
    sender="Shop <noreply@shop.example>",
    more="",
    what="other",
)
letter(
    "invitation",
    "Your invitation to bob@far.example was delivered.\n",
    subject="Invitation delivered",
    sender="noreply@shop.example",
    more="",
    what="other",
)
letter(
    "dmarc_report",
    "This is an aggregate report.\n",
    subject="Report Domain: news.example Submitter: far.example Report-ID: <1@far.example>",
    sender="noreply-dmarc@far.example",
    more="",
    what="other",
)
letter(
    "domino_away",
    'I am out of the office until 05/01/2027.\n\nNote: This is an automated response to your message "The garden" sent on 04/01/2027.\n',
    subject="AUTO: Reader, Rita is out of the office. (returning 05/01/2027)",
    sender=R,
    more="",
    what="auto_reply",
)
letter(
    "challenge_bluebottle",
    "Your message was received at Mon, 2 Nov 2026 08:00:00 +0000:\n\nThis account is protected by Bluebottle.  Please click on the\nfollowing link to have your address added to the recipient's allowed\nlist and to ensure delivery of your email.\n",
    subject="RE: The garden",
    sender=R,
    more="",
    what="challenge",
)

# -- more, in no order -----------------------------------------------------------------------------------------------

letter(
    "more_sendmail_hdr",
    f'The original message was received at Mon\nfrom root@localhost\n\n   ----- The following addresses had permanent fatal errors -----\n"|exec /usr/bin/procmail"\n    (reason: Service unavailable)\n    (expanded from: <{R}>)\n\n   ----- Transcript of session follows -----\nprocmail: Quota exceeded while writing\n550 5.0.0 "|exec /usr/bin/procmail"... Can\'t create output\n',
    R,
    subject="Returned mail: see transcript for details",
)
letter(
    "more_sun_imta",
    f"Your message was undeliverable to:\n\n  {R}\n\nbecause: mailbox full\n",
    R,
    subject="Undeliverable mail",
    sender="Internet Mail Delivery <postmaster@far.example>",
)
letter(
    "more_netscape",
    f"This Message was undeliverable due to the following reason:\n\nThe following destination addresses were unknown (please check\nthe addresses and re-mail the message):\n\n<{R}>\n\nPlease reply to Postmaster@far.example\nif you feel this message to be in error.\n",
    R,
    subject="Mail System Error - Returned Mail",
    sender="Mail Administrator <Postmaster@far.example>",
    attached=True,
)
letter(
    "more_msn",
    f"The following message to {R} could not be delivered.\nReason: 552 5.2.2 mailbox full\n",
    R,
    subject="Undelivered Mail",
    sender="Postmaster@far.example",
)
letter(
    "more_compuserve",
    f"Receiver not found: {R}\n\n\nYour message could not be delivered as addressed.\n\n--- Returned message ---\n\n{HEAD}",
    R,
    subject="Undeliverable message",
    sender="CompuServe Postmaster <auto.reply@far.example>",
)
letter(
    "more_compuserve2",
    f"Your message could not be delivered for the following reason:\n\nMailbox {R} is currently full.\n\n--- Returned message ---\n\n{HEAD}",
    R,
    subject="Undeliverable message",
    sender="CompuServe Postmaster <auto.reply@far.example>",
)
letter(
    "more_exim_de",
    f"Diese Nachricht wurde automatisch von der Mail-Software erstellt.\n\nEine Nachricht, die Sie versendet haben, konnte an einen oder mehrere\nEmpfänger nicht zugestellt werden. Die folgende(n) Adresse(n) schlugen fehl:\n\n  {R}\n    SMTP error from remote mail server after RCPT TO:<{R}>:\n    550 unknown\n\n------ Dies ist eine Kopie der Nachricht, einschliesslich aller Header. ------\n\n{HEAD}",
    R,
    subject="Mail delivery failed: returning message to sender",
)
letter(
    "more_exim_es",
    f"Este mensaje fue creado automáticamente por el programa de correo.\n\nUn mensaje que usted envió no pudo ser entregado a uno o más destinatarios. Falló la siguiente dirección:\n\n  {R}\n    550 desconocido\n\n------ Esta es una copia del mensaje ------\n\n{HEAD}",
    R,
    subject="Mail delivery failed: returning message to sender",
)
letter(
    "more_postfix_ja",
    f"これはホスト mx.far.example のメールシステムです。\n\n申し訳ありませんが、あなたのメッセージは配信できませんでした。\n\n<{R}>: host mx.far.example[192.0.2.9] said: 550 5.1.1 unknown (in reply to RCPT TO command)\n",
    R,
    subject="Undelivered Mail Returned to Sender",
    encoding="base64",
)
letter(
    "more_vpopmail",
    f"Hi. This is the deliver program at far.example.\nI'm afraid I wasn't able to deliver your message to the following addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\n<{R}>\nuser does not exist, but will deliver to /home/vpopmail\nno such user\n\n--- Below the next line is a copy of the message.\n\n{HEAD}",
    R,
    subject="failure notice",
)
letter(
    "more_vpopmail_overquota",
    f"Message rejected. Not enough storage space in user's mailbox to accept message.\n\n<{R}>\n",
    R,
    subject="failure notice",
)
letter(
    "more_lotus_ccmail",
    f"Message delivery to the following recipients failed:\n\n\tReader, Rita at FAR <{R}>\n\nReason: Unknown user\n",
    R,
    subject="Message not deliverable",
    sender="Administrator <ccmail@far.example>",
)
letter(
    "more_vms_pmas",
    f"This message could not be delivered to the following addressees:\n\n    {R}  -- No such user\n",
    R,
    subject="Undelivered message",
)
letter(
    "more_1c_kerio",
    f"Your message did not reach some or all of the intended recipients:\n\n{R}\n\nReason: The mailbox is unavailable (550 5.1.1).\n",
    R,
    subject="Undeliverable",
    sender="postmaster@far.example",
)
letter(
    "more_hotmail",
    f"This is an automatically generated Delivery Status Notification.\n\nDelivery to the following recipients failed.\n\n       {R}\n\n",
    R,
    subject="Delivery Status Notification (Failure)",
    sender="postmaster@mail.hotmail.example",
    attached=True,
)
letter(
    "more_hotmail_es",
    f"Esta es una notificación de estado de entrega generada automáticamente.\n\nError al realizar la entrega a los siguientes destinatarios.\n\n       {R}\n\n",
    R,
    subject="Delivery Status Notification (Failure)",
    sender="postmaster@mail.hotmail.example",
    attached=True,
)
letter(
    "more_icloud",
    f"Your message to {R} was rejected.\nI said:\nRCPT TO:<{R}>\nAnd mx.far.example [192.0.2.9] responded with\n550 5.1.1 unknown\n",
    R,
    subject="Undelivered Mail",
)
letter(
    "more_mailsite",
    f"Your message could not be delivered to the following recipients:\n\n<{R}>\n\tDescription: The recipient mailbox does not exist.\n\n",
    R,
    subject="Delivery Failure",
    sender="MailSite <postmaster@far.example>",
)
letter(
    "more_argosoft",
    f"Could not deliver message to {R}\nServer responded: 550 No such user\n",
    R,
    subject="Delivery failure",
    sender="ArGoSoft Mail Server <postmaster@far.example>",
)
letter(
    "more_xmail",
    f"[<00>] XMail bounce: Rcpt=[{R}];Error=[550 unknown user]\n\n\n[<01>] Error sending message [1.2.3] from [far.example].\n\nID:        <1>\nMail From: <news@news.example>\nRcpt To:   <{R}>\nServer:    <mx.far.example>\n\n[<02>] The reason of the delivery failure was:\n\n550 unknown user\n\n[<05>] Here is listed the initial part of the message:\n\n{HEAD}",
    R,
    subject="Error sending message [1.2.3] from [far.example]",
    sender="postmaster@far.example",
)
letter(
    "more_merak",
    f"The following recipient(s) could not be reached:\n\n  <{R}>\n\nError: 550 5.1.1 User unknown\n",
    R,
    subject="Delivery failure",
    sender="IceWarp <mailer-daemon@far.example>",
)
letter(
    "more_worldmail",
    f"User's mailbox is full: {R}\nUnable to deliver mail.\n\n*** The following is the original message ***\n{HEAD}",
    R,
    subject="User's mailbox is full",
    sender="WorldMail <postmaster@far.example>",
)
letter(
    "more_mailman_nonmember",
    "Your mail to 'garden' was not delivered, as you are not a subscriber of the mailing list.\n",
    what="subscription",
    subject="Request to mailing list garden rejected",
    sender="garden-bounces@lists.example",
    more="X-Mailman-Version: 2.1\n",
)
letter(
    "more_otrs",
    "Dear customer, thanks for your mail. We created ticket 2026110210000012.\n",
    what="auto_reply",
    subject="[Ticket#2026110210000012] RE: The garden",
    sender="support@far.example",
    more="X-Powered-By: OTRS\nPrecedence: bulk\n",
)
letter(
    "more_human_re",
    f"I received your garden letter, but {R} no longer works here; could you take the address off?\n",
    what="other",
    subject="Re: The garden",
    sender="paul@person.example",
    more="",
)
letter(
    "more_majordomo",
    "Your request to Majordomo: subscribe garden\n\n**** Command succeeded\n",
    what="subscription",
    subject="Majordomo results",
    sender="majordomo@lists.example",
    more="",
)
letter(
    "more_cal",
    "Rita has accepted your invitation. Contact rita@far.example.\n",
    what="other",
    subject="Accepted: Garden party",
    sender=R,
    more="",
)
letter(
    "more_virus",
    f"The mail message you sent to <{R}> contains a virus (EICAR).\nIt has NOT been delivered.\n",
    R,
    subject="VIRUS IN YOUR MAIL",
    sender="Antivirus <postmaster@far.example>",
)
letter(
    "more_spamhaus_reject",
    f"Your e-mail to the following recipient was rejected by our spam filter:\n\n   {R}\n\nIf you think this is an error please contact postmaster@far.example.\n",
    R,
    subject="Rejected mail",
    sender="Spam Filter <postmaster@far.example>",
)
letter(
    "more_greek",
    f"Το μήνυμά σας δεν ήταν δυνατό να παραδοθεί στον παραλήπτη:\n\n{R}\n\n550 5.1.1\n",
    R,
    subject="Μη παραδοτέο",
    sender="postmaster@far.example",
)
letter(
    "more_arabic",
    f"تعذر تسليم رسالتك إلى المستلم:\n\n{R}\n\n550 5.1.1\n",
    R,
    subject="تعذر التسليم",
    sender="postmaster@far.example",
)
letter(
    "more_hebrew",
    f"לא ניתן למסור את ההודעה לנמען:\n\n{R}\n\n550 5.1.1\n",
    R,
    subject="לא ניתן למסור",
    sender="postmaster@far.example",
)
letter(
    "more_finnish",
    f"Viestiäsi ei voitu toimittaa seuraaville vastaanottajille:\n\n{R}\n",
    R,
    subject="Viestiä ei voitu toimittaa",
    sender="postmaster@far.example",
)
letter(
    "more_norwegian",
    f"Meldingen kunne ikke leveres til følgende mottakere:\n\n{R}\n",
    R,
    subject="Kan ikke leveres",
    sender="postmaster@far.example",
)
letter(
    "more_vietnamese",
    f"Thư của bạn không thể gửi đến người nhận sau:\n\n{R}\n\n550 5.1.1\n",
    R,
    subject="Không gửi được thư",
    sender="postmaster@far.example",
)
letter(
    "more_indonesian",
    f"Pesan Anda tidak dapat dikirim ke penerima berikut:\n\n{R}\n\n550 5.1.1\n",
    R,
    subject="Gagal terkirim",
    sender="postmaster@far.example",
)

# -- what could be taken for a recipient ------------------------------------------------------------------------------

letter(
    "trap_contact_only",
    "Your message could not be delivered.\n\nPlease contact the helpdesk:\n\nhelpdesk@far.example\n",
    subject="Undeliverable",
)
letter(
    "trap_contact_de",
    "Ihre Nachricht konnte nicht zugestellt werden.\nBei Fragen: support@far.example\n",
    subject="Unzustellbar",
)
letter(
    "trap_signature",
    f"The following recipient could not be reached:\n\n  {R}\n\n-- \nJohn Admin\nadmin@far.example\nhttp://far.example\n",
    R,
    subject="Undeliverable",
)
letter(
    "trap_cc_list",
    f"Delivery failed: {R}\n\nFrom: news@news.example\nTo: {R}\nCc: boss@far.example, other@far.example\nSubject: x\n",
    R,
    subject="Delivery failed",
)
letter(
    "trap_url",
    f"Your message to {R} was blocked. See http://postmaster.far.example/block?rcpt=web@far.example&ip=1 or mailto:unblock@far.example.\n550 5.7.1 blocked\n",
    R,
    subject="Message blocked",
)
letter(
    "trap_alias",
    f"<{R}>: mail forwarding loop for inner@inner.example\n",
    R,
    subject="Undelivered Mail Returned to Sender",
)
letter(
    "trap_said_other",
    f"This is the mail system at host mx.\n\n<{R}>: host mx said: 550 5.1.1 <inner@inner.example>: Recipient address rejected (in reply to RCPT TO)\n",
    R,
    subject="Undelivered Mail Returned to Sender",
)
letter(
    "trap_qmail_other",
    f"Hi. This is the qmail-send program at mx.\nI'm afraid I wasn't able to deliver your message to the following addresses.\n\n<{R}>:\n192.0.2.1 does not like recipient.\nRemote host said: 550 <inner@inner.example> unknown; contact <postmaster@inner.example>:\nGiving up\n",
    R,
    subject="failure notice",
)
letter(
    "trap_new_address",
    f"The mailbox {R} is closed. Please use new@other.example instead.\n",
    R,
    subject="Undeliverable mail",
    sender="postmaster@far.example",
)
letter(
    "trap_personal_moved",
    "I have moved to new@other.example. Mail to the old address will bounce.\n",
    subject="New address",
    sender=R,
    more="",
    what="other",
)
letter(
    "trap_sender_blocked",
    "Your message from news@news.example was rejected: sender blocked. 550 5.7.1\n",
    subject="Undeliverable",
)
letter(
    "trap_ours",
    f"550 5.1.1 {R}\nyour address news@news.example is fine\nreply to bounces@news.example\n\nOriginal message headers:\n\n{HEAD}",
    R,
    subject="Undeliverable",
)
letter(
    "trap_two_in_sentence",
    f"Message from news@news.example to {R} failed: 550 5.1.1 no user\n",
    R,
    subject="Undeliverable",
)
letter(
    "trap_delivered_one_failed_other",
    f"A message that you sent could not be delivered to one or more of its recipients. The following address(es) failed:\n\n  {R}\n    user unknown\n\nThe message was delivered to:\n\n  other@far.example\n",
    R,
    subject="Mail delivery failed",
)
letter(
    "trap_quota_warn",
    "Quota warning for reader@far.example: 95% used.\n",
    subject="Quota warning",
    sender="postmaster@far.example",
    more="",
    what="other",
)
letter(
    "trap_abuse",
    "Thank you for your report about spammer@bad.example.\n",
    subject="Abuse report received",
    sender="postmaster@far.example",
    more="",
    what="other",
)
letter(
    "trap_newsl",
    "Undelivered? Check your spam. Contact us at help@shop.example. Your mail matters.\n",
    subject="Mail delivery failed? Here is why",
    sender="Shop <news@shop.example>",
    more="",
    what="other",
)
letter(
    "trap_ticket",
    f"We got your mail about delivery failed to {R}.\n",
    subject="[Ticket #12] Delivery failed",
    sender="support@far.example",
    more="",
    what="auto_reply",
)
letter(
    "trap_person_subj",
    f"Hi, I wrote to {R} and the mail could not be delivered. Can you help?\nPaul, paul@person.example\n",
    subject="mail not delivered",
    sender="Paul <paul@person.example>",
    more="",
    what="other",
)
letter(
    "trap_list_mod",
    "The attached message has been automatically discarded.\n",
    subject="Auto-discard notification",
    sender="garden-bounces@lists.example",
    more="X-Mailman-Version: 2.1\n",
    what="subscription",
)
letter(
    "trap_mailman_bounce_action",
    f"This is a Mailman mailing list bounce action notice:\n\n    List:       Garden\n    Member:     {R}\n    Action:     Subscription disabled.\n    Reason:     Excessive or fatal bounces.\n",
    subject="Bounce action notification",
    sender="mailman@lists.example",
    more="X-Mailman-Version: 2.1\n",
    what="subscription",
)
letter(
    "trap_dsn_warn",
    f"Warning: your message to {R} has not yet been delivered. We will keep trying.\n",
    R,
    subject="Delayed mail",
    sender="postmaster@far.example",
    what="delayed",
)

letter(
    "late_hosted_exch_fr",
    f"Votre message n'a pas été remis à {R}.\nIl se peut que l'adresse soit incorrecte.\n550 5.1.10\n",
    R,
    subject="Non remis : Le jardin",
    sender="Microsoft Outlook <postmaster@far.example>",
)
letter(
    "late_rackspace",
    f"I'm sorry to inform you that the message you sent could not be delivered.\n\nRecipient: <{R}>\nReason: 550 5.1.1\n",
    R,
    subject="Mail delivery error",
)
letter(
    "late_ovh",
    f"Votre message destiné à {R} n'a pas pu être délivré.\n",
    R,
    subject="Echec de livraison",
    sender="postmaster@far.example",
)
letter(
    "late_strato",
    f"Die E-Mail an {R} konnte nicht zugestellt werden: 550 User unknown\n",
    R,
    subject="Zustellung fehlgeschlagen",
)
letter(
    "late_sender_dom", f"The following recipients have failed:\n\n{R} (no such user)\n", R, subject="Failed delivery"
)
letter("late_bracket", f"Undeliverable to [{R}]; mailbox unavailable\n", R, subject="Undelivered mail")
letter(
    "late_table",
    f"Recipient            Status\n---------            ------\n{R}   550 5.1.1 unknown user\n",
    R,
    subject="Delivery report",
)
letter(
    "late_html_simple",
    f"<html><body><p>Your email could not be delivered to:</p><ul><li><b>{R}</b></li></ul><p>Error: 550 unknown</p></body></html>",
    R,
    subject="Undeliverable",
    html=True,
)
letter(
    "late_html_br",
    f"<p>Delivery has failed to these recipients or groups:</p><a href='mailto:{R}'>Rita</a><br>The address you entered couldn't be found.<br>Diagnostic information for administrators:<br>Generating server: mx<br>{R}<br>Remote Server returned '550 5.1.1 &lt;{R}&gt;'<br>",
    R,
    subject="Undeliverable: x",
    html=True,
    sender="postmaster@far.example",
)
letter(
    "late_plus_addr",
    "Hi. This is the qmail-send program at mx.\nI'm afraid I wasn't able to deliver your message to the following addresses.\n\n<o'neil+tag=x@far.example>:\nno mailbox. (#5.1.1)\n",
    "o'neil+tag=x@far.example",
    subject="failure notice",
)
letter("late_upper", "The address READER@FAR.EXAMPLE is unknown.\n", "READER@FAR.EXAMPLE", subject="Mail undeliverable")
letter(
    "late_idn",
    "Undeliverable mail\n\nleser@gärten.example: mailbox full\n",
    "leser@gärten.example",
    subject="Undeliverable mail",
)
letter(
    "late_sympa_reject",
    "Your message for list garden was rejected. You are not allowed to send this message.\n",
    what="subscription",
    subject="Message distribution: garden rejected",
    sender="SYMPA <sympa@lists.example>",
    more="",
)
letter(
    "late_google_grp_moderated",
    "Your message has been rejected by the moderators of the group garden.\n",
    what="subscription",
    subject="Re: garden - message rejected",
    sender="garden+owners@groups.example",
    more="",
)
letter(
    "late_oof_html",
    "<p>Ich bin bis 9.11. im Urlaub.</p>",
    what="auto_reply",
    subject="Re: Der Garten",
    sender=R,
    more="X-Auto-Response-Suppress: All\nAuto-Submitted: auto-replied\n",
    html=True,
)
letter(
    "late_oof_noheader",
    "I am currently out of the office and will be back on Monday.\n",
    what="auto_reply",
    subject="Re: The garden",
    sender=R,
    more="",
)
letter(
    "late_oof_fr",
    "Bonjour,\n\nJe suis absent du bureau jusqu'au 9.\n",
    what="auto_reply",
    subject="Absence du bureau",
    sender=R,
    more="",
)
letter(
    "late_oof_es",
    "Me encuentro de vacaciones.\n",
    what="auto_reply",
    subject="Fuera de la oficina: El jardín",
    sender=R,
    more="",
)
letter(
    "late_defer",
    f"Delivery to {R} is delayed. 451 4.7.1 greylisted. No action is required on your part.\n",
    R,
    subject="Delivery delayed",
    what="delayed",
)
