"""Bounce messages in the formats of many mail systems, written by hand from the descriptions of the formats.

SAMPLES: name → (message, what it is, [(address, status, class), …]); a status or class of None is not looked at.
"""

# ruff: noqa: E501 - messages stand as they are
from __future__ import annotations

DAEMON = "MAILER-DAEMON@mx.far.example (Mail Delivery System)"
COPY = """Received: from relay.news.example (relay.news.example [192.0.2.7]) by mx.far.example; Mon, 2 Nov 2026 08:00:00 +0000
Message-ID: <issue-47.reader@news.example>
X-Fastrelay-Reference: fabc234
From: Example News <news@news.example>
To: reader@far.example
Subject: The garden in November
"""
Expected = list[tuple[str, str | None, str | None]]
SAMPLES: dict[str, tuple[bytes, str, Expected]] = {}


def plain(text: str, subject: str = "Undelivered Mail Returned to Sender", sender: str = DAEMON, more: str = "") -> bytes:
    """A bounce of one text."""
    header = f"Return-Path: <>\nFrom: {sender}\nTo: bounces@news.example\nSubject: {subject}\nMessage-ID: <b1@mx.far.example>\n"
    return f"{header}{more}\n{text}".encode()


def report(groups: str, text: str = "Your message was not delivered.", copy: str = COPY, mta: str = "dns; mx.far.example") -> bytes:
    """A bounce as RFC 3464 has it."""
    return (
        f"Return-Path: <>\nFrom: {DAEMON}\nTo: bounces@news.example\nSubject: Delivery Status Notification (Failure)\n"
        'MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status; boundary="=_b"\n\n'
        f"--=_b\nContent-Type: text/plain; charset=utf-8\n\n{text}\n\n--=_b\nContent-Type: message/delivery-status\n\n"
        f"Reporting-MTA: {mta}\nOriginal-Envelope-Id: env-1\n\n{groups}\n\n"
        f"--=_b\nContent-Type: message/rfc822\n\n{copy}\nHello reader.\n\n--=_b--\n"
    ).encode()


def add(name: str, message: bytes, what: str, *recipients: tuple[str, str | None, str | None]) -> None:
    assert name not in SAMPLES
    SAMPLES[name] = (message, what, list(recipients))


R = "reader@far.example"
BAD = ("reader@far.example", "5.1.1", "bad_mailbox")

# -- reports (RFC 3464) -----------------------------------------------------------------------------------------------

add("postfix_report", report(f"Final-Recipient: rfc822; {R}\nOriginal-Recipient: rfc822;{R}\nAction: failed\nStatus: 5.1.1\nRemote-MTA: dns; mx.far.example\nDiagnostic-Code: smtp; 550 5.1.1 <{R}>: Recipient address rejected: User unknown"), "bounce", BAD)
add("postfix_delay", report(f"Final-Recipient: rfc822; {R}\nAction: delayed\nStatus: 4.4.1\nDiagnostic-Code: X-Postfix; connect to mx.far.example[192.0.2.9]:25: Connection timed out\nWill-Retry-Until: Sat, 7 Nov 2026 08:00:00 +0000"), "delayed", (R, "4.4.1", "connection"))
add("exim_report", report(f"Action: failed\nFinal-Recipient: rfc822;{R}\nStatus: 5.0.0\nRemote-MTA: dns; mx.far.example\nDiagnostic-Code: smtp; 550 5.2.1 <{R}> account is disabled"), "bounce", (R, "5.0.0", "inactive"))
add("sendmail_report", report(f"Final-Recipient: RFC822; {R}\nAction: failed\nStatus: 5.2.2\nRemote-MTA: DNS; mx.far.example\nDiagnostic-Code: SMTP; 552 5.2.2 Over quota\nLast-Attempt-Date: Mon, 2 Nov 2026 08:00:00 GMT"), "bounce", (R, "5.2.2", "quota"))
add("exchange_report", report(f"Final-Recipient: rfc822;{R}\nAction: failed\nStatus: 5.1.10\nDiagnostic-Code: smtp;550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient {R} not found by SMTP address lookup"), "bounce", (R, "5.1.10", "bad_mailbox"))
add("gmail_report", report(f"Final-Recipient: rfc822; {R}\nAction: failed\nStatus: 5.1.1\nRemote-MTA: dns; gmail-smtp-in.l.google.com. (192.0.2.26, the server for the domain far.example.)\nDiagnostic-Code: smtp; 550-5.1.1 The email account that you tried to reach does not exist. Please try\n 550-5.1.1 double-checking the recipient's email address for typos\n 550 5.1.1 https://support.google.com/mail/?p=NoSuchUser a1-20020a - gsmtp\nLast-Attempt-Date: Mon, 02 Nov 2026 00:00:00 -0800 (PST)"), "bounce", BAD)
add("amazon_ses", report(f"Action: failed\nFinal-Recipient: rfc822; {R}\nDiagnostic-Code: smtp; 550 5.1.1 user unknown\nStatus: 5.1.1"), "bounce", BAD)
add("powermta", report(f"Original-Recipient: rfc822;{R}\nFinal-Recipient: rfc822;{R}\nAction: failed\nStatus: 5.7.1 (delivery not authorized)\nRemote-MTA: dns;mx.far.example (192.0.2.9)\nDiagnostic-Code: smtp;554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using zen.spamhaus.org\nX-PowerMTA-BounceCategory: spam-related"), "bounce", (R, "5.7.1", "reputation_block"))
add("forwarded", report(f"Final-Recipient: rfc822; other@third.example\nOriginal-Recipient: rfc822; {R}\nAction: failed\nStatus: 5.1.1"), "bounce", BAD)
add("no_type", report(f"Final-Recipient: <{R}>\nAction: Failed\nStatus: 5.1.1 (bad destination mailbox address)"), "bounce", BAD)
add("local_type", report(f"Final-Recipient: LOCAL; reader\nOriginal-Recipient: rfc822; {R}\nAction: failed\nStatus: 5.1.1"), "bounce", BAD)
add("local_part_only", report("Final-Recipient: LOCAL; reader\nAction: failed\nStatus: 5.1.1"), "bounce", BAD)
add("two_recipients", report(f"Final-Recipient: rfc822; {R}\nAction: failed\nStatus: 5.1.1\n\nFinal-Recipient: rfc822; other@far.example\nAction: delayed\nStatus: 4.2.2"), "bounce", BAD, ("other@far.example", "4.2.2", "quota"))
add("groups_without_empty_line", report(f"Final-Recipient: rfc822; {R}\nAction: failed\nStatus: 5.1.1\nFinal-Recipient: rfc822; other@far.example\nAction: failed\nStatus: 5.1.1"), "bounce", BAD, ("other@far.example", "5.1.1", "bad_mailbox"))
add("empty_lines_in_group", report(f"Final-Recipient: rfc822; {R}\n\nAction: failed\n\nStatus: 5.1.1\n\nDiagnostic-Code: smtp; 550 no such user"), "bounce", BAD)
add("no_action", report(f"Final-Recipient: rfc822; {R}\nStatus: 5.1.1"), "bounce", BAD)
add("no_status", report(f"Final-Recipient: rfc822; {R}\nAction: failed\nDiagnostic-Code: smtp; 550 5.1.1 unknown user"), "bounce", BAD)
add("folded", report(f"Final-Recipient:\n rfc822;\n {R}\nAction:\n failed\nStatus:\n 5.1.1"), "bounce", BAD)
add("zero_padded_status", report(f"Final-Recipient: rfc822; {R}\nAction: failed\nStatus: 5.01.001"), "bounce", BAD)
add("utf8_address", report("Final-Recipient: utf-8; gr\\x{FC}n@far.example\nAction: failed\nStatus: 5.1.1"), "bounce", ("grün@far.example", "5.1.1", "bad_mailbox"))
add("success", report(f"Final-Recipient: rfc822; {R}\nAction: delivered\nStatus: 2.0.0"), "notice", (R, "2.0.0", ""))
add("relayed", report(f"Final-Recipient: rfc822; {R}\nAction: relayed\nStatus: 2.1.9"), "notice", (R, "2.1.9", ""))
add("x400", report("Final-Recipient: x400; /S=reader/O=far/C=de/\nOriginal-Recipient: rfc822; reader@far.example\nAction: failed\nStatus: 5.1.1"), "bounce", BAD)
add("x_unix", report(f"Final-Recipient: rfc822; {R}\nAction: failed\nStatus: 5.2.2\nDiagnostic-Code: x-unix; maildrop: maildir over quota."), "bounce", (R, "5.2.2", "quota"))
WRONG_TYPE = report(f"Final-Recipient: rfc822; {R}\nAction: failed\nStatus: 5.1.1")
add("report_as_octets", WRONG_TYPE.replace(b"message/delivery-status", b"application/octet-stream").replace(b"multipart/report; report-type=delivery-status", b"multipart/mixed"), "bounce", BAD)
add("report_in_mixed", b"From: MAILER-DAEMON@gw.example\nTo: bounces@news.example\nSubject: Undeliverable\nContent-Type: multipart/mixed; boundary=out\n\n--out\n" + WRONG_TYPE.partition(b"MIME-Version: 1.0\n")[2] + b"\n--out\nContent-Type: text/plain\n\nfooter\n--out--\n", "bounce", BAD)

# -- formats without a report -----------------------------------------------------------------------------------------

add("qmail", plain(f"Hi. This is the qmail-send program at mx.far.example.\nI'm afraid I wasn't able to deliver your message to the following addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\n<{R}>:\nSorry, no mailbox here by that name. (#5.1.1)\n\n--- Below this line is a copy of the message.\n\nReturn-Path: <bounces@news.example>\n{COPY}\nHello", "failure notice"), "bounce", BAD)
add("qmail_remote", plain(f"Hi. This is the qmail-send program at gw.far.example.\nI'm afraid I wasn't able to deliver your message to the following addresses.\n\n<{R}>:\n192.0.2.9 does not like recipient.\nRemote host said: 550 5.2.1 account is disabled\nGiving up on 192.0.2.9.\n\n--- Below this line is a copy of the message.\n\n{COPY}", "failure notice"), "bounce", (R, "5.2.1", "inactive"))
add("exim", plain(f"This message was created automatically by mail delivery software.\n\nA message that you sent could not be delivered to one or more of its\nrecipients. This is a permanent error. The following address(es) failed:\n\n  {R}\n    SMTP error from remote mail server after RCPT TO:<{R}>:\n    host mx.far.example [192.0.2.9]: 550 5.1.1 <{R}>: user unknown\n\n------ This is a copy of the message, including all the headers. ------\n\n{COPY}", "Mail delivery failed: returning message to sender", more=f"X-Failed-Recipients: {R}\nAuto-Submitted: auto-replied\n"), "bounce", BAD)
add("exim_generated", plain(f"This message was created automatically by mail delivery software.\n\nA message that you sent could not be delivered to one or more of its\nrecipients. The following address(es) failed:\n\n  other@third.example\n    (generated from {R})\n    mailbox is full: retry timeout exceeded\n\n------ This is a copy of the message ------\n\n{COPY}", "Mail delivery failed"), "bounce", (R, None, "quota"))
add("exim_warning", plain(f"This message was created automatically by mail delivery software.\nA message that you sent has not yet been delivered to one or more of its\nrecipients after more than 24 hours on the queue on mx.far.example.\n\nThe address to which the message has not yet been delivered is:\n\n  {R}\n\nNo action is required on your part.\n", "Warning: message 1abc-2 delayed 24 hours"), "delayed", (R, None, None))
add("sendmail", plain(f"The original message was received at Mon, 2 Nov 2026 08:00:00 GMT\nfrom relay.news.example [192.0.2.7]\n\n   ----- The following addresses had permanent fatal errors -----\n<{R}>\n    (reason: 550 5.1.1 <{R}>... User unknown)\n\n   ----- Transcript of session follows -----\n... while talking to mx.far.example.:\n>>> RCPT To:<{R}>\n<<< 550 5.1.1 <{R}>... User unknown\n", "Returned mail: see transcript for details"), "bounce", BAD)
add("sendmail5", plain(f"   ----- Transcript of session follows -----\nWhile talking to mx.far.example:\n>>> RCPT To:<{R}>\n<<< 550 <{R}>... User unknown\n550 <{R}>... User unknown\n\n   ----- Unsent message follows -----\n{COPY}", "Returned mail: User unknown"), "bounce", (R, None, "bad_mailbox"))
add("sendmail_warning", plain(f"    **********************************************\n    **      THIS IS A WARNING MESSAGE ONLY      **\n    **  YOU DO NOT NEED TO RESEND YOUR MESSAGE  **\n    **********************************************\n\n   ----- The following addresses had transient non-fatal errors -----\n<{R}>\n\n   ----- Transcript of session follows -----\n<{R}>... Deferred: Connection timed out with mx.far.example.\nWarning: message still undelivered after 4 hours\n", "Warning: could not send message for past 4 hours"), "delayed", (R, None, None))
add("postfix_text", plain(f"This is the mail system at host mx.far.example.\n\nI'm sorry to have to inform you that your message could not\nbe delivered to one or more recipients. It's attached below.\n\n                   The mail system\n\n<{R}>: host mx.far.example[192.0.2.9] said: 550 5.1.1 <{R}>:\n    Recipient address rejected: User unknown in virtual mailbox table (in reply\n    to RCPT TO command)\n"), "bounce", BAD)
add("postfix_expanded", plain(f"This is the Postfix program at host mx.far.example.\n\nI'm sorry to have to inform you that your message could not\nbe delivered to one or more recipients.\n\n<other@third.example> (expanded from <{R}>): unknown user: \"other\"\n"), "bounce", (R, None, "bad_mailbox"))
add("exchange2003", plain(f"Your message\n\n  To:      {R}\n  Subject: The garden in November\n  Sent:    Mon, 2 Nov 2026 08:00:00 -0000\n\ndid not reach the following recipient(s):\n\n{R} on Mon, 2 Nov 2026 08:00:05 -0000\n    The recipient name is not recognized\n\tThe MTS-ID of the original message is: c=us;a= ;p=far\n    MSEXCH:IMS:FAR:SITE:HOST 0 (000C05A6) Unknown Recipient\n", "Undeliverable: The garden in November", "System Administrator <postmaster@far.example>"), "bounce", (R, None, None))
add("exchange2000", plain(f"Your message did not reach some or all of the intended recipients.\n\n      Subject:\tThe garden in November\n      Sent:\t2/11/2026 08:00\n\nThe following recipient(s) could not be reached:\n\n      '{R}' on 2/11/2026 08:00\n            The e-mail account does not exist at the organization this message was sent to.\n            <gw.far.example #5.1.1>\n", "Undeliverable: The garden in November", "System Administrator <postmaster@far.example>"), "bounce", BAD)
add("exchange2010", plain(f"Delivery has failed to these recipients or distribution lists:\n\n{R}\nThe recipient's e-mail address was not found in the recipient's e-mail system.\n\nDiagnostic information for administrators:\n\nGenerating server: ex.far.example\n\n{R}\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n\nOriginal message headers:\n\n{COPY}", "Undeliverable: The garden in November", "Microsoft Exchange <postmaster@far.example>"), "bounce", BAD)
add("exchange_german", plain(f"Fehler bei der Nachrichtenzustellung an folgende Empfänger oder Verteilerlisten:\n\n{R}\nDie eingegebene E-Mail-Adresse konnte nicht gefunden werden.\n\nDiagnoseinformationen für Administratoren:\n\nGenerierender Server: ex.far.example\n\n{R}\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n", "Unzustellbar: Der Garten", "Microsoft Exchange <postmaster@far.example>"), "bounce", BAD)
add("smtpsvc", plain(f"This is an automatically generated Delivery Status Notification.\n\nDelivery to the following recipients failed.\n\n       {R}\n", "Delivery Status Notification (Failure)", "postmaster@far.example"), "bounce", (R, None, None))
add("microsoft365", plain(f"Your message to {R} couldn't be delivered.\nreader wasn't found at far.example.\n", "Undeliverable: The garden", "Microsoft Outlook <MicrosoftExchange329e@far.example>"), "bounce", (R, None, None))
add("gmail_old", plain(f"Delivery to the following recipient failed permanently:\n\n     {R}\n\nTechnical details of permanent failure:\nGoogle tried to deliver your message, but it was rejected by the recipient domain. The error that the other server returned was: 550 550 5.1.1 unknown user (state 14).\n\n----- Original message -----\n\n{COPY}", "Delivery Status Notification (Failure)", "Mail Delivery Subsystem <mailer-daemon@googlemail.com>"), "bounce", BAD)
add("gmail_delay", plain(f"This is an automatically generated Delivery Status Notification\n\nTHIS IS A WARNING MESSAGE ONLY.\n\nYOU DO NOT NEED TO RESEND YOUR MESSAGE.\n\nDelivery to the following recipient has been delayed:\n\n     {R}\n\nMessage will be retried for 2 more day(s)\n", "Delivery Status Notification (Delay)", "Mail Delivery Subsystem <mailer-daemon@googlemail.com>"), "delayed", (R, None, None))
add("yahoo_old", plain(f"Message from yahoo.com.\nUnable to deliver message to the following address(es).\n\n<{R}>:\nThis user doesn't have a far.example account ({R}) [0]\n\n--- Original message follows.\n\n{COPY}", "failure notice"), "bounce", (R, None, "bad_mailbox"))
add("aol_old", plain(f"The original message was received at Mon, 2 Nov 2026 08:00:00 -0400\n\n*** ATTENTION ***\n\nYour e-mail is being returned to you because there was a problem with its delivery.\n\n   ----- The following addresses had permanent fatal errors -----\n<{R}>\n\n   ----- Transcript of session follows -----\n... while talking to air.mx.far.example.:\n>>> RCPT To:<{R}>\n<<< 550 MAILBOX NOT FOUND\n", "Mail Delivery Problem"), "bounce", (R, None, "bad_mailbox"))
add("domino", plain(f"Your message\n\n  Subject: The garden in November\n\nwas not delivered to:\n\n  {R}\n\nbecause:\n\n  User reader ({R}) not listed in Domino Directory\n", f"DELIVERY FAILURE: User reader ({R}) not listed in Domino Directory", "Postmaster@far.example"), "bounce", (R, None, "bad_mailbox"))
add("groupwise", plain(f"The message that you sent was undeliverable to the following:\n\t{R} (user not found)\n\nPossibly truncated original message follows:\n\n{COPY}", "Message status - undeliverable", "Mailer-Daemon@far.example"), "bounce", (R, None, "bad_mailbox"))
add("communigate", plain(f"Failed to deliver to '{R}'\nLOCAL module(account reader) reports:\n account is full (quota exceeded)\n", "Undeliverable mail: garden", "<MAILER-DAEMON@far.example>"), "bounce", (R, None, "quota"))
add("mdaemon", plain(f"The following data may contain sections which represent BASE64 encoded\nfile attachments.\n\nYour message could not be delivered to one or more of its intended recipients.\n\nFailed address: {R}\n\n--- Session Transcript ---\n Mon 2026-11-02 08:00:00: --> RCPT To:<{R}>\n Mon 2026-11-02 08:00:00: <-- 550 <{R}>, Recipient unknown\n--- End Transcript ---\n", "Permanent Delivery Failure", "MDaemon@far.example"), "bounce", (R, None, "bad_mailbox"))
add("imail", plain(f"Unknown user: {R}\n\nOriginal message follows.\n\n{COPY}", "Undeliverable Mail", "Postmaster <postmaster@far.example>", more="X-Mailer: <SMTP32 v8.22>\n"), "bounce", (R, None, "bad_mailbox"))
add("smartermail", plain(f"Could not deliver message to the following recipient(s):\n\nFailed Recipient: {R}\nReason: Remote host said: 550 5.1.1 user unknown\n\n   -- The header and top 20 lines of the message follows --\n\n{COPY}", "Delivery Failure", '"System Administrator" <postmaster@far.example>'), "bounce", BAD)
add("mercury", plain(f"This message was created automatically by Mercury.\nOne or more addresses in your message have failed with the following\nresponses from the mail transport system:\n\n   {R}: 550 5.1.1 No such local user\n\n", "Postmaster notify: see transcript for details", "Electronic Postmaster <postmaster@far.example>"), "bounce", BAD)
add("courier", plain(f"This is a delivery status notification from mx.far.example,\nrunning the Courier mail server, version 0.73.\n\nThe original message was received on Mon, 2 Nov 2026 08:00:00 +0000\n\n---------------------------------------------------------------------------\n\n                           UNDELIVERABLE MAIL\n\nYour message to the following recipients cannot be delivered:\n\n<{R}>:\n    mx.far.example [192.0.2.9]:\n>>> RCPT TO:<{R}>\n<<< 550 5.1.1 User unknown.\n", "NOTICE: mail delivery status.", '"Courier mail server at mx.far.example" <@>'), "bounce", BAD)
add("james", plain(f"Hi. This is the James mail server at mx.far.example.\nI'm afraid I wasn't able to deliver your message to the following addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\n{R}\n\nThe remote mail server said: 550 5.1.1 no such user\n", "Re: garden", "postmaster@far.example"), "bounce", (R, None, None))
add("iplanet", plain(f"This report relates to a message you sent with the following header fields:\n\n  Message-id: <issue-47.reader@news.example>\n  Subject: The garden in November\n\nYour message cannot be delivered to the following recipients:\n\n  Recipient address: {R}\n  Reason: Illegal host/domain name found\n", "Delivery Notification: Delivery has failed", "Internet Mail Delivery <postmaster@far.example>"), "bounce", (R, None, "bad_domain"))
add("au_ezweb", plain(f"Each of the following recipients was rejected by a remote mail server.\nThe reasons given by the server are included to help you determine why\neach recipient was rejected.\n\n    Recipient: <{R}>\n    >>> RCPT TO:<{R}>\n    <<< 550 <{R}>: User unknown\n", "Mail System Error - Returned Mail", "Postmaster@far.example"), "bounce", (R, None, "bad_mailbox"))
add("kddi", plain(f"Your mail sent on: Mon, 2 Nov 2026 08:00:00\n\n     Could not be delivered to: <{R}>\n     As their mailbox is full.\n", "Mail Delivery Failed", "no-reply@far.example"), "bounce", (R, None, "quota"))
add("mailmarshal", plain(f"Your message:\n   From:    bounces@news.example\n   Subject: The garden in November\n\nCould not be delivered because of\n\n550 5.1.1 user unknown\n\nThe following recipients were affected: \n    {R}\n\nAdditional Information\n", "Undeliverable Mail: \"The garden\"", "MailMarshal <postmaster@far.example>"), "bounce", (R, None, None))
add("interscan", plain(f"Unable to deliver message to <{R}>\n\nSent <<< RCPT TO:<{R}>\nReceived >>> 550 5.1.1 {R} user unknown\n", "Mail could not be delivered", '"InterScan MSS" <mailer-daemon@far.example>'), "bounce", BAD)
add("surfcontrol", plain(f"Your message could not be sent.\nA transcript of the attempts to send the message follows.\nThe number of attempts made: 1\nAddressed To: {R}\n\nMon, 2 Nov 2026 08:00:00 +0000\nFailed to send to identified host,\n{R}: [192.0.2.9], 550 5.1.1 User unknown\n", "Message delivery failed", "Postmaster@far.example"), "bounce", (R, None, None))
add("opensmtpd", plain(f"    Hi!\n\n    This is the MAILER-DAEMON, please DO NOT REPLY to this email.\n\n    An error has occurred while attempting to deliver a message for\n    the following list of recipients:\n\n{R}: 550 5.1.1 Invalid recipient\n\n    Below is a copy of the original message:\n\n{COPY}", "Delivery status notification: error"), "bounce", BAD)
add("gmx", plain(f'This message was created automatically by mail delivery software.\n\nA message that you sent could not be delivered to one or more of\nits recipients. This is a permanent error. The following address\nfailed:\n\n"{R}":\nSMTP error from remote server after RCPT command:\nhost: mx.far.example\n5.1.1 <{R}>... User is unknown\n\n--- The header of the original message is following. ---\n\n{COPY}', "Mail delivery failed: returning message to sender"), "bounce", BAD)
add("dovecot", plain(f"Your message to <{R}> was automatically rejected:\nQuota exceeded (mailbox for user is full)\n", "Automatically rejected mail", "Mail Delivery Subsystem <postmaster@far.example>", more="Auto-Submitted: auto-replied (rejected)\n"), "bounce", (R, None, "quota"))
add("qq", plain(f"抱歉,您的邮件被退回来了……\n原邮件信息:\n主 题 The garden in November\n\n退信原因 收件人邮件地址({R})不存在,邮件无法送达。\nhost mx.far.example said: 550 Mailbox not found\n", "系统退信/Systems bounce", "PostMaster@far.example"), "bounce", (R, None, "bad_mailbox"))
add("netease", plain(f"很抱歉,您发送的邮件被退回。\n\n收件人:{R}\n退信原因:550 User not found: {R}\n", "系统退信", "Postmaster@far.example"), "bounce", (R, None, "bad_mailbox"))
add("german", plain(f"Ihre Nachricht konnte nicht zugestellt werden.\n\nFolgende Adresse ist fehlgeschlagen:\n\n  {R}\n\n550 Benutzer unbekannt\n", "Unzustellbare Nachricht"), "bounce", (R, None, "bad_mailbox"))
add("french", plain(f"Votre message n'a pas pu être délivré à :\n\n{R}\n\n550 utilisateur inconnu\n", "Message non remis"), "bounce", (R, None, "bad_mailbox"))
add("spanish", plain(f"Su mensaje no se pudo entregar a los siguientes destinatarios:\n\n  {R}\n\n550 usuario desconocido\n", "Mensaje no entregado"), "bounce", (R, None, "bad_mailbox"))
add("italian", plain(f"Il messaggio non è stato consegnato ai seguenti destinatari:\n\n  {R}\n\n550 utente sconosciuto\n", "Mancata consegna"), "bounce", (R, None, "bad_mailbox"))
add("portuguese", plain(f"Sua mensagem não pôde ser entregue para:\n\n  {R}\n\n550 usuário desconhecido\n", "Falha na entrega"), "bounce", (R, None, "bad_mailbox"))
add("russian", plain(f"Ваше письмо не может быть доставлено получателю:\n\n{R}\n\n550 user not found\n", "Недоставленное сообщение"), "bounce", (R, None, "bad_mailbox"))
add("japanese", plain(f"メールを配信できませんでした。\n\n宛先: {R}\n\n550 5.1.1 User unknown\n", "配信不能通知"), "bounce", BAD)
add("failed_field", plain("The mail could not be delivered.\n", "Undeliverable", more=f"X-Failed-Recipients: {R}\n"), "bounce", (R, None, None))

add("active_hunter", plain(f"The original message was received at Mon, 2 Nov 2026 08:00:00 +0900\n\n  ----- The following addresses had permanent fatal errors -----\n\n>>> {R} <{R}>\n\n  ----- Transcript of session follows -----\n550 sorry, no mailbox here by that name (#5.1.1 - chkusr)\n", "FAILURE NOTICE : The garden"), "bounce", BAD)
add("mfilter", plain(f"以下のメールアドレスへの送信に失敗しました。\n{R}\n\n-------server message\n550 unknown user <{R}>\n\n-------SMTP command\nDATA\n\n-------original message\n{COPY}", "failure notice"), "bounce", (R, None, "bad_mailbox"))
add("zoho", plain(f"This message was created automatically by mail delivery software.\nA message that you sent could not be delivered to one or more of its recipients. This is a permanent error.\n\n{R} Invalid Recipients, ERROR CODE :550 - <{R}>... User unknown\n"), "bounce", (R, None, "bad_mailbox"))
add("dragonfly", plain(f"This is the DragonFly Mail Agent at mx.far.example.\n\nThere was an error delivering your mail to <{R}>.\n\nmx.far.example [192.0.2.9] did not like our RCPT TO:\n550 5.1.1 user unknown\n\nMessage headers follow.\n\n{COPY}", "Mail delivery failed"), "bounce", BAD)
add("biglobe", plain(f"   ----- The following addresses had delivery problems -----\n{R} (mailbox full)\n\n   ----- Non-delivered information -----\nThe number of messages in recipient's mailbox exceeded the local limit.\n", "Returned mail"), "bounce", (R, None, "quota"))
add("notes", plain(f"------- Failure Reasons  --------\n\nUser not listed in public Name & Address Book\n{R}\n\n------- Returned Message --------\n{COPY}", "Undeliverable message", "postmaster@far.example"), "bounce", (R, None, None))
add("rejected_recipient", plain(f"We had trouble delivering your message. Full details follow:\n\n1 error(s):\n\nSMTP Server <mta.far.example> rejected recipient <{R}> (Error following RCPT command). It responded as follows: [550 5.1.1 unknown user]\n", "There was an error sending your mail"), "bounce", BAD)

# -- no bounces -------------------------------------------------------------------------------------------------------

PERSON = "Reader <reader@far.example>"
add("vacation", plain("I am away until Monday. Write to colleague@far.example.\n", "Out of office: The garden", PERSON, "Auto-Submitted: auto-replied (vacation)\n"), "auto_reply")
add("vacation_words", plain("Ich bin im Urlaub. Bitte wenden Sie sich an vertretung@far.example.\n", "Abwesenheitsnotiz: Der Garten", PERSON), "auto_reply")
add("vacation_exchange", plain("I have left. My mailbox is no longer read; user@far.example could help.\n", "Automatic reply: The garden", PERSON, "X-Auto-Response-Suppress: All\nAuto-Submitted: auto-generated\n"), "auto_reply")
add("challenge", plain("Please confirm that you are a real person: click https://far.example/c so that your message will be delivered to reader@far.example.\n", "Please confirm your message", PERSON), "challenge")
add("unsubscribe", plain("please remove me@far.example\n", "unsubscribe", PERSON), "subscription")
add("answer", plain("Thank you, a nice issue! My friend friend@far.example could not be delivered a copy, though.\n", "Re: The garden in November", PERSON), "other")
add("forwarded_by_a_person", plain("Look:\n> <friend@far.example>: user unknown\n> could not be delivered to friend@far.example\n", "Fwd: Undelivered mail", PERSON), "other")
add("ticket", plain("Your request has been received. agent@far.example will answer. Mail could not be delivered.\n", "[Ticket #123] The garden", PERSON, "Auto-Submitted: auto-generated\n"), "auto_reply")
add("complaint", b"From: abuse@far.example\nTo: fbl@news.example\nSubject: complaint\nContent-Type: multipart/report; report-type=feedback-report; boundary=x\n\n--x\nContent-Type: text/plain\n\nA complaint.\n--x\nContent-Type: message/feedback-report\n\nFeedback-Type: abuse\nUser-Agent: test/1\nVersion: 1\n--x--\n", "complaint")
