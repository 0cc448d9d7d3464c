"""Replies of real hosts and what they say: the wordings of providers, gateways and servers as logs and their pages have
them, with addresses and numbers of our own. At least 97 of 100 have to be read right, and no block is a bad address."""
# ruff: noqa: E501 - replies stand as hosts say them

from __future__ import annotations

import pytest

from fastrelay.feedback.classes import built_in_classes, parse_reply

# class → replies, each as `provider|reply`, or the reply of any host
REPLIES: dict[str, str] = {
    "bad_mailbox": """
550 5.1.1 The email account that you tried to reach is not an active address at this host
550 x@example.com not found
550 5.1.1 <x@example.com> is not found
550 user missing home directory
550 Recipient not OK
550 recipient is not local
550 Recipient address rejected: invalid user
550 No valid recipients, bye
550 No thank you rejected: Account Unavailable: x@example.com
550 No such person at this address.
550 no matches to nameserver query
550 No mail box available for this user
550 mailbox not present
550 destination server rejected recipients
550 destination addresses were unknown
550 5.1.1 can't accept user
google|550-5.1.1 The email account that you tried to reach does not exist. Please try double-checking the recipient's email address for typos or unnecessary spaces. For more information, go to https://support.google.com/mail/?p=NoSuchUser a1-20020a05600c000100b003f1b3a5si123 - gsmtp
google|553 5.1.2 The address specified is not a valid RFC 5321 address. For more information, go to https://support.google.com/a/answer/3221692
yahoo|554 delivery error: dd This user doesn't have a yahoo.com account (x@yahoo.com) [0] - mta1234.mail.ne1.yahoo.com
yahoo|554 delivery error: dd Not a valid recipient - mta1.yahoo.com
yahoo|552 1 Requested mail action aborted, mailbox not found
outlook|550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302). [BN1NAM02FT001.eop-nam02.prod.protection.outlook.com]
outlook|550 5.5.0 Requested action not taken: mailbox unavailable
microsoft365|550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient x@contoso.com not found by SMTP address lookup
microsoft365|550 5.4.1 Recipient address rejected: Access denied. For more information see https://aka.ms/EXOSmtpErrors [DB5EUR01FT010.eop-EUR01.prod.protection.outlook.com]
microsoft365|550 5.4.1 [x@contoso.com]: Recipient address rejected: Access denied [AM5EUR02FT030.eop-EUR02.prod.protection.outlook.com]
other|550 5.4.1 Recipient address rejected: Access denied. AS(201806281) [BL2NAM06FT012.Eop-nam06.prod.protection.outlook.com]
550 5.1.1 RESOLVER.ADR.RecipNotFound; not found
apple|550 5.1.1 <x@icloud.com>: user does not exist
apple|550 5.1.1 unknown or illegal alias: x@me.com
gmx_webde|550 Requested action not taken: mailbox unavailable For explanation visit https://postmaster.gmx.net/en/error-messages?ip=192.0.2.1&c=nxmb
tonline|550 5.1.1 <x@t-online.de>: Recipient address rejected: User unknown
comcast|550 5.1.1 <x@comcast.net> Account not available
comcast|550 5.1.1 Not our Customer
orange|550 5.1.1 Adresse d au moins un destinataire invalide. Invalid recipient. OFR204_416 [416]
550 5.1.1 <x@free.fr>: Recipient address rejected: User unknown in relay recipient table
550 5.5.1 Adresse d au moins un destinataire invalide. Invalid recipient. LPN007_416
550 5.1.1 <x@sfr.fr>: Recipient address rejected: User unknown in virtual mailbox table
550 RCPT TO:<x@libero.it> User unknown
550 5.1.1 <x@virgilio.it> recipient rejected. Address unknown
mailru|550 Message was not accepted -- invalid mailbox. Local mailbox x@mail.ru is unavailable: user not found
yandex|550 5.7.1 No such user!
550 Mailbox not found. http://service.mail.qq.com/cgi-bin/help?subtype=1&&id=20022&&no=1000728
550 User not found: x@163.com
550 5.1.1 No such user x@naver.com
550 #5.1.0 Address rejected.
550 #5.1.0 Address rejected x@example.com
550 5.1.0 Address rejected.
550 5.1.1 Mailbox does not exist
550 5.1.1 <x@example.com>: Recipient address rejected: User unknown in local recipient table
550 5.1.1 <x@example.com>: Recipient address rejected: User unknown in virtual alias table
550 5.1.1 <x@example.com>: Recipient address rejected: undeliverable address: host mx.example.com[192.0.2.1] said: 550 5.1.1 User unknown (in reply to RCPT TO command)
550 5.1.1 <x@example.com>... User unknown
550 5.1.1 x@example.com... No such user
550 x@example.com unknown user account
550 unknown user
550 Unknown user kijitora@example.ne.jp
550 No such user here
550 No Such User Here"
550 "no such user here"
550 5.1.1 User not found
550 5.1.1 Recipient not found. <https://example.com/help>
550 5.1.1 sorry, no mailbox here by that name (#5.1.1)
511 sorry, no mailbox here by that name (#5.1.1 - chkuser)
550 sorry, no mailbox here by that name. (#5.7.17)
550 5.1.1 sorry, that recipient is not in my validrcptto list (#5.1.1)
553 sorry, badrcptto
550 sorry, your envelope recipient is in my badrcptto list (#5.7.1)
550 5.1.1 This address does not exist
550 5.1.1 Bad destination mailbox address
550 5.1.1 bad address <x@example.com>
550 Invalid recipient <x@example.com>
550 Invalid Recipient - https://community.mimecast.com/docs/DOC-1369#550 [AbCdEfGhIjKlMnOpQrStUv.uk123]
550 Invalid mailbox: x@example.com
550 5.0.0 <x@example.com>... No such user here
550 mailbox unavailable
550 5.2.1 Mailbox unavailable. Your mail has not been delivered to this address
550 5.1.1 <x@example.com>: Email address could not be found, or was misspelled (G8)
550 relay not ok - user unknown
550 5.1.1 unknown recipient
550 Callout verification failed: 550 5.1.1 no such user
550 Administrative prohibition - no such recipient
550 The following recipients was undeliverable
550 5.1.1 Not a local address
550 not a valid user here
550 The user's email name is not found
550 This user does not exist
550 5.1.1 There is no one at this address
550 no account by that name here
550 non-existent user
550 Requested action not taken: mailbox not found
550 x@example.com is not a known user
550 x@example.com is not a valid mailbox
550 5.1.1 x@example.com is not listed in Domino Directory
550 x@example.com... No such user
550 Account not found
550 5.4.300 Message rejected: recipient does not exist
550 5.1.1 Unknown local-part x in domain example.com
550 5.1.1 unknown address
550 5.1.351 Remote server returned unknown recipient or mailbox unavailable
501 5.1.3 Bad recipient address syntax
550 El usuario no existe
550 no existe dicha persona
550 Usuario desconocido
550 5.1.1 destinatario inesistente
550 Benutzer unbekannt
550 Empfaenger unbekannt
551 not our user
553 5.3.0 <x@example.com>... Addressee unknown
553 mailbox name not allowed
""",
    "bad_domain": """
550 Unrouteable address
550 5.1.2 <x@example.invalid>: Recipient address rejected: Domain not found
554 5.4.4 Host or domain name not found. Name service error for name=example.invalid type=AAAA: Host not found
550 5.4.310 DNS domain example.invalid does not exist [Message=InfoDomainNonexistent]
550 5.1.2 x@example.invalid... Host unknown (Name server: example.invalid.: host not found)
550 5.1.2 Sorry, I couldn't find any host named example.invalid. (#5.1.2)
550 all relevant MX records point to non-existent hosts
556 5.1.10 <x@example.com>: Recipient address rejected: Domain example.com does not accept mail (nullMX)
556 5.1.10 domain example.com accepts no mail (null MX)
550 domain example.invalid does not exist in the DNS
550 Unknown domain
550 5.1.2 The recipient domain does not exist
""",
    "inactive": """
550 invalid/inactive user
550 5.1.6 recipient no longer on server: x@example.com
550 x@example.com: this email address is wrong or no longer valid
google|550-5.2.1 The email account that you tried to reach is inactive. For more information, go to https://support.google.com/mail/?p=DisabledUser
google|550 5.2.1 The email account that you tried to reach is disabled. Learn more at https://support.google.com/mail/?p=DisabledUser - gsmtp
yahoo|554 5.2.1 delivery error: dd Sorry your message to x@yahoo.com cannot be delivered. This account has been disabled or discontinued [#102]. - mta1
yahoo|554 30 Sorry, your message to x@aol.com cannot be delivered. This mailbox is disabled (554.30).
microsoft365|550 5.2.1 Mailbox disabled, not accepting messages
apple|550 5.2.1 <x@me.com>: inactive email user
gmx_webde|550 5.2.1 <x@gmx.de>... User is inactive
orange|550 5.2.1 Boite du destinataire archivee. Archived recipient. OFR_417 [417]
mailru|550 Message was not accepted -- invalid mailbox. Local mailbox x@mail.ru is unavailable: account is disabled
mailru|550 5.2.1 user is terminated
yandex|550 5.2.1 Mailbox disabled for this recipient
550 Mailbox unavailable or access denied [x@qq.com]
550 The mailbox is a deactivated mailbox
550 User suspended
550 5.2.1 mailbox currently suspended
550 recipient suspend the service
550 5.2.1 This mailbox has been blocked due to inactivity
550 5.7.1 <x@rambler.ru>: Recipient address rejected: Mailbox is disabled for non-use
550 5.2.1 The mailbox of x@example.com has been suspended
550 Account x@example.com locked
550 5.2.1 account inactive
550 mailbox is inactive
550 this address no longer accepts mail
550 x@example.com account expired
550 5.1.1 <x@example.com> User account is expired
vdelivermail: account is locked email bounced
550 5.1.1 no longer with the company
550 The account has been deactivated
""",
    "quota": """
452 4.2.2 Quota violation for x@example.com
550 Recipient rejected: mailbox would exceed maximum allowed storage
550 recipient reached disk quota
550 would be over the allowed quota
550 not enough storage space in mailbox
552 mailbox exceeded the local limit
550 full mailbox
550 x@example.com does not have enough space
550 disc quota exceeded
550 delivery failed: over quota
550 Account disabled temporarly for exceeding receiving limits
google|452-4.2.2 The recipient's inbox is out of storage space. Please direct the recipient to https://support.google.com/mail/?p=OverQuotaTemp
google|552-5.2.2 The email account that you tried to reach is over quota. Please direct the recipient to https://support.google.com/mail/?p=OverQuotaPerm
microsoft365|554 5.2.2 mailbox full; STOREDRV.Deliver.Exception:QuotaExceededException.MapiExceptionShutoffQuotaExceeded
outlook|552 5.2.2 This message is larger than the current system limit or the recipient's mailbox is full. Create a shorter message body or remove attachments and try sending it again.
apple|552 5.2.2 <x@icloud.com>: user is over quota (in reply to RCPT TO command)
yahoo|552 5.2.2 Mailbox over quota
tonline|552 5.2.2 Over STORAGE quota
gmx_webde|552-Requested mail action aborted: exceeded storage allocation 552-Quota exceeded. The recipients mailbox is full.
mailru|422 mailbox is full
550 Mailbox is full / Blocks limit exceeded / Inode limit exceeded
552 5.2.2 Mailbox size limit exceeded
452 4.2.2 Mailbox full
452 4.2.2 Over quota
552 5.2.2 x@example.com quota exceeded
550 5.7.1 <x@example.com>: Recipient address rejected: Mailbox quota exceeded
552 RCPT TO:<x@libero.it> Mailbox disk quota exceeded
550 User has exceeded quota, bouncing mail
550 user is over the quota
550 account is over quota
550 5.2.2 account is exceeding their quota
552 exceeded storage allocation
550 mailbox has exceeded its disk space limit
550 x@example.com has exceeded his/her disk space limit.
550 maildir over quota
550 mailfolder is full
554 5.2.2 The recipient mailbox has exceeded its disk space limit
550 The user's space has been used up.
552 Requested mail action aborted: exceeded storage allocation
550 5.2.2 user has too many messages on the server
452 4.1.1 <x@comcast.net> mailbox full
552 5.1.1 <x@comcast.net> Mailbox full
452 4.2.2 The email account that you tried to reach is over quota
550 Postfach voll
550 Boite du destinataire pleine. Recipient overquota. OFR_417 [417]
550 Quota exceeded (mailbox for user is full)
550 mailbox full
422 4.2.2 Recipient over disk quota
552 <x@example.com>: insufficient disk space: mailbox quota exceeded
""",
    "size": """
google|552-5.3.4 Your message exceeded Google's message size limits. Please visit https://support.google.com/mail/?p=MaxSizeError
552 5.3.4 Message size exceeds fixed limit
552 5.3.4 Error: message file too big
552 5.3.4 Message size exceeds fixed maximum message size (10485760)
550 5.2.3 RESOLVER.RST.RecipSizeLimit; message too large for this recipient
552 message size exceeds maximum permitted
550 5.7.1 Message size exceeds recipient's limit
552 5.2.3 Message too large
550 Message too large
552 Message exceeds fixed maximum message size
523 the message size exceeds the recipient's size limit
""",
    "reputation_block": """
550 Sender IP reverse lookup rejected
554 5.7.1 You are not allowed to connect. Sorry, your IP 192.0.2.1 is banned
550 You are not allowed to connect.
550 your network is temporary blacklisted
550 unresolvable relay host name
550 Server access forbidden by your IP 192.0.2.1
550 Not currently accepting mail from your ip
550 Mail from 192.0.2.1 refused: see list
550 mail server at 192.0.2.1 is blocked
550 IP/domain reputation problems
550 hosts with dynamic ip
550 Go away
550 Email blocked by bl.barracudacentral.org
554 Dynamic/zombied/spam IPs blocked. Write postmaster@example.com
550 cannot resolve your address
550 Bad sender IP address
550 access denied. IP name lookup failed
google|550-5.7.1 [192.0.2.1 19] Our system has detected that this message is likely suspicious due to the very low reputation of the sending IP address. To best protect our users from spam, the message has been blocked.
google|421-4.7.0 [192.0.2.1] Our system has detected that this message is suspicious due to the very low reputation of the sending IP address.
yahoo|553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.1, because the ip is in Spamhaus's list; see http://postmaster.yahoo.com/550-bl23.html
outlook|550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3140). You can also refer your provider to http://mail.live.com/mail/troubleshooting.aspx#errors. [X.eop-nam.prod.protection.outlook.com]
microsoft365|550 5.7.606 Access denied, banned sending IP [192.0.2.1]. To request removal from this list please visit https://sender.office.com/
microsoft365|550 5.7.511 Access denied, banned sender[192.0.2.1]. To request removal from this list please forward this message to delist@messaging.microsoft.com.
microsoft365|550 5.7.1 Service unavailable, Client host [192.0.2.1] blocked using Spamhaus. To request removal from this list see https://www.spamhaus.org/query/ip/192.0.2.1 (AS16012609)
apple|554 5.7.1 [CS01] Message rejected due to local policy. Please visit https://support.apple.com/en-us/HT204137
apple|550 5.7.0 Blocked - see https://support.proofpoint.com/dnsbl-lookup.cgi?ip=192.0.2.1
gmx_webde|554-gmx.net (mxgmx001) Nemesis ESMTP Service not available 554-No SMTP service 554-IP address is block listed. 554 For explanation visit https://postmaster.gmx.net/en/error-messages?ip=192.0.2.1&c=bl
gmx_webde|554-gmx.net (mxgmx115) Nemesis ESMTP Service not available 554-No SMTP service 554-Bad DNS PTR resource record.
tonline|554 IP=192.0.2.1 - None/bad reputation. Ask your postmaster for help or to contact tobr@rx.t-online.de for reset. (NOWL)
comcast|554 resimta-ch2-01v.sys.comcast.net comcast 192.0.2.1 found on one or more DNSBLs, see http://postmaster.comcast.net/smtp-error-codes.php#BL000001
comcast|550 5.2.0 192.0.2.1 blocked by ldap:ou=rblmx,dc=comcast,dc=net -> BL000000 Blocked for abuse
421 Reverse DNS for 192.0.2.1 failed. See http://postmaster.comcast.net/smtp-error-codes.php#PT000001
554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org; https://www.spamhaus.org/query/ip/192.0.2.1
554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using bl.spamcop.net; Blocked - see https://www.spamcop.net/bl.shtml?192.0.2.1
550 5.7.1 <x@example.com>: Recipient address rejected: 192.0.2.1 is listed at b.barracudacentral.org
554 5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access denied
550 5.7.1 Client host rejected: cannot find your hostname, [192.0.2.1]
450 4.7.1 Client host rejected: cannot find your reverse hostname, [192.0.2.1]
554 5.7.1 <x@example.com>: Recipient address rejected: Your IP is blacklisted
550 5.7.1 Your IP address 192.0.2.1 is blacklisted using JMFBL
550-5.7.1 Mail from 192.0.2.1 refused: blackholes.example
550 Access from ip address 192.0.2.1 blocked
550 5.7.1 Email blocked by SPAMHAUS
550 IP 192.0.2.1 is blocked by EarthLink. Go to earthlink.net/block for details.
521 5.7.1 Blocked by DNSRBL: RBL 521< 192.0.2.1 >_is_blocked.For assistance forward this error to abuse_rbl@abuse-att.net
550 5.7.1 Connections not accepted from servers without a valid sender domain. Fix reverse DNS for 192.0.2.1
554 Your access to this mail system has been rejected due to the sending MTA's poor reputation. If you believe that this failure is in error, please contact the intended recipient via alternate means.
550 5.7.1 Your access to submit messages to this e-mail system has been rejected.
550 Blocked - see http://www.spamhaus.org/query/bl?ip=192.0.2.1
550 DNSBL:ATTRBL 521< 192.0.2.1 >_is_blocked
550 sorry, your remotehost looks suspiciously like spammer
550 we do not accept mail from hosts with dynamic IP or generic dns PTR-records
550 5.7.1 This system will not accept messages from servers/devices with no reverse DNS
550 All mail servers must have a PTR record with a valid Reverse DNS entry
550 The ip 192.0.2.1 is blacklisted
554 Email rejected due to security policies - https://community.mimecast.com/docs/DOC-1369#554 Local CT IP Reputation - (reject)
550 Rejected by MessageLabs: your IP is on a block list
554 5.7.1 <x@example.com>: Sender address rejected: domain is listed in Spamhaus DBL
550 permanent failure for one or more recipients (x@example.com:blocked using Barracuda Reputation)
550 5.7.1 Rejected: 192.0.2.1 listed at zen.spamhaus.org
554 CXBL - Connection refused. 192.0.2.1 is listed
554 impinc01 charter 192.0.2.1 is blocked. AUP#1310
550 5.7.350 Remote server returned message detected as spam -> 554 5.7.1 blocked by your IP's bad reputation
550 Your server IP 192.0.2.1 listed as abusive
550 JunkMail rejected - (mail.example.com) [192.0.2.1]:25 is in an RBL on rbl.websitewelcome.com
""",
    "spam_content": """
541 5.7.1 Message rejected: content policy
550 Your message failed several antispam checks
554 5.7.1 transaction failed spam message not queued
550 this message has been scored as spam with a probability of 99
550 you're using a mass mailer
550 our filters rate at and above 90 percent probability of being spam
550 Message filtered. Refer to the Troubleshooting page at http://www.symanteccloud.com/troubleshooting for more information. (#5.7.1)
554 5.7.1 Reject bulk.advertising
550 spam
550 appears to be unsolicited
google|550-5.7.1 [192.0.2.1 12] Our system has detected that this message is likely unsolicited mail. To reduce the amount of spam sent to Gmail, this message has been blocked.
google|552-5.7.0 This message was blocked because its content presents a potential security issue. Please visit https://support.google.com/mail/?p=BlockedMessage
yahoo|554 Message not allowed - [PH01] Email not accepted for policy reasons. Please visit https://postmaster.yahooinc.com/error-codes
550 5.7.1 Message content rejected, UBE, id=00000-00-000
554 5.7.1 Message rejected as spam by Content Filtering.
550 5.7.1 This message appears to be spam
550 High probability of spam
554 5.7.1 Spam message rejected
mailru|550 spam message rejected. Please visit http://help.mail.ru/notspam-support/id?c=abc or report details to abuse@corp.mail.ru.
yandex|554 5.7.1 [2] Message rejected under suspicion of SPAM; https://ya.cc/1IrBc
550 5.7.1 Blocked by SpamAssassin
550 This message was classified as SPAM and may not be delivered
554 5.6.0 Message contains virus Eicar-Test-Signature
550 Mail content denied. http://service.mail.qq.com/cgi-bin/help?subtype=1&&id=20022&&no=1000726
554 DT:SPM 163 mx1,abc http://mail.163.com/help/help_spam_16.htm?ip=192.0.2.1
comcast|552 5.2.0 abc Message rejected due to possible spam content. See http://postmaster.comcast.net/smtp-error-codes.php#CM000001
550 5.7.1 Your message was rejected because it appears to be SPAM
550 Blacklisted URL in message
554 5.7.1 The message was rejected because it contains prohibited virus or spam content
550 5.7.1 This message scored 12.3 spam points
554 rejected due to spam content
550 5.7.1 Your email had spam-like characteristics
550 Message was rejected by Recurrent Pattern Detection System
554 5.7.1 This email has been rejected because of unacceptable content: bulk email
550 5.7.1 The content of this message looked like spam
554 5.7.1 probable spam
550 "The mail server detected your message as spam and has prevented delivery."
552 5.7.1 attachment type not allowed
554 permanently rejected message (#5.3.0)
550 5.7.520 Message blocked because it contains content identified as spam. AS(4810)
554 5.7.1 spam detected (http://postmaster.free.fr/)
550 Rejecting banned content
""",
    "authentication": """
550 Please inspect your SPF settings
550 bad SPF records for example.com
google|550-5.7.26 This mail has been blocked because the sender is unauthenticated. Gmail requires all senders to authenticate with either SPF or DKIM.
google|550-5.7.26 Unauthenticated email from example.com is not accepted due to domain's DMARC policy. Please contact the administrator of example.com domain
google|550-5.7.26 This message does not have authentication information or fails to pass authentication checks.
google|421-4.7.26 This mail has been rate limited because it is unauthenticated.
google|421-4.7.32 Your email has been rate limited because the From: header (RFC5322) in this message isn't aligned with either the authenticated SPF or DKIM organizational domain.
google|421-4.7.30 This mail has been rate limited because DKIM does not pass.
google|550-5.7.25 [192.0.2.1] The IP address sending this message does not have a PTR record setup, or the corresponding forward DNS entry does not point to the sending IP.
google|550-5.7.1 This message does not meet IPv6 sending guidelines regarding PTR records and authentication.
microsoft365|550 5.7.509 Access denied, sending domain example.com does not pass DMARC verification and has a DMARC policy of reject.
outlook|550 5.7.515 Access denied, sending domain EXAMPLE.COM does not meet the required authentication level.
microsoft365|550 5.7.23 The message was rejected because of Sender Policy Framework violation -> 550 SPF check failed
yahoo|554 5.7.9 Message not accepted for policy reasons. See https://postmaster.yahooinc.com/error-codes: DMARC policy
yahoo|550 5.7.1 Email rejected per DMARC policy for example.com
550 5.7.1 Email rejected per DMARC policy for example.org
550 5.7.1 Email rejected per SPF policy
550 5.7.0 SPF Check: fail
550 5.7.23 <x@example.com>: Recipient address rejected: Message rejected due to: SPF fail - not authorized. Please see http://www.openspf.net/Why?s=mfrom
554 5.7.1 SPF (Sender Policy Framework) domain authentication fail. Refer to the Troubleshooting page at http://www.symanteccloud.com/troubleshooting
550 5.7.1 rejected by DMARC policy for example.com
550-Verification failed: DKIM signature missing
550 SPF: 192.0.2.1 is not allowed to send mail from example.com
gmx_webde|550 Requested action not taken: mailbox unavailable; DMARC policy of example.com requests reject
apple|554 5.7.1 Your message was rejected due to example.com's DMARC policy. See https://support.apple.com/en-us/HT204137 for info
535 5.7.8 Error: authentication failed: authentication failure
530 5.7.0 Authentication required
""",
    "rate": """
450 4.2.2 x@example.com: user is receiving mail too quickly
450 4.7.1 throttling failure: daily message quota exceeded
452 we have already made numerous attempts to deliver this message
google|421-4.7.28 [192.0.2.1 15] Our system has detected an unusual rate of unsolicited mail originating from your IP address. To protect our users from spam, mail sent from your IP address has been temporarily rate limited.
google|450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages from being delivered. Please resend your message at a later time. https://support.google.com/mail/?p=ReceivingRatePerm
google|421 4.7.0 Try again later, closing connection. Too many concurrent connections
yahoo|421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints - 4.16.55.1; see https://postmaster.yahooinc.com/error-codes
yahoo|421 4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred; Retrying will NOT succeed.
yahoo|451 4.7.1 [IPTS04] Messages from 192.0.2.1 temporarily deferred due to excessive complaints
yahoo|451 Resources temporarily restricted. Throttling
outlook|421 RP-001 (BAY004-MC1F1) Unfortunately, some messages from 192.0.2.1 weren't sent. The mail server IP connecting to Outlook.com server has exceeded the rate limit allowed.
outlook|451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation. For e-mail delivery information, see https://postmaster.live.com (S775)
outlook|451 4.7.652 The mail server [192.0.2.1] has exceeded the maximum number of connections. (S3115)
microsoft365|451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77714)
microsoft365|450 4.7.3 Organization queue quota exceeded; throttled
microsoft365|550 5.2.121 RecipientLimitExceeded; recipient's per hour message receive limit from specific sender exceeded
comcast|421 4.1.0 192.0.2.1 Throttled - see http://postmaster.comcast.net/smtp-error-codes.php#RL000001
comcast|421 Too many sessions opened
orange|421 mwinf5c04 ME Trop de connexions, veuillez verifier votre configuration. Too many connections, slow down. OFR005_104 [104]
mailru|450 4.7.1 Message rate limit exceeded. Try again later
550 Ip frequency limited [abc IP: 192.0.2.1]. http://service.mail.qq.com/cgi-bin/help?subtype=1&&id=20022&&no=1000725
550 Connection frequency limited
451 RP:ORQ 163 mx
421 4.4.5 Too many connections from your host.
421 4.7.0 mail.example.com Error: too many connections from 192.0.2.1
452 4.3.2 Connection rate limit exceeded.
450 4.7.1 Error: too much mail from 192.0.2.1
421 4.7.0 Error: too many errors
452 4.5.3 Too many recipients
450 4.1.1 Too many requests, slow down
550 Domain example.com has exceeded the max emails per hour (100/100 (100%)) allowed. Message discarded.
421 Too many concurrent SMTP connections from this IP address; please try again later.
451 4.2.0 Please try again slower
421 4.3.2 You have exceeded the connection limit
gmx_webde|421 Requested action not taken: too many connections
452 Too many emails sent on this session
""",
    "greylist": """
450 4.2.0 <x@example.com>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help/example.com.html
451 4.7.1 Greylisting in action, please come back later
451 4.7.1 Please try again later (greylisted)
450 4.7.1 <x@example.com>: Recipient address rejected: Greylisting in effect, please try again in 300 seconds
451 Temporarily rejected. Try again in 5 minutes: graylisted
450 4.7.0 <x@example.com>: Recipient address rejected: Policyd greylist
451 4.3.0 You are greylisted for 5 minutes
450 4.7.1 Client host rejected: Greylisted for 5 minutes
421 4.7.0 x@example.com: Greylisted, please retry in 60 seconds
""",
    "policy": """
550 sender domain is empty
550 domain example.com is a dead domain
553 5.5.4 fully qualified email address required
550 emetteur invalide
550 sender is spammer
554 5.7.1 The email address used to send your message is not subscribed to this group.
550 Email not accepted for policy reasons
550 5.7.9 Header error
550 5.7.1 closed mailing list
microsoft365|550 5.7.1 RESOLVER.RST.NotAuthorized; not authorized
550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; authentication required; Delivery restriction check failed because the sender was not authenticated when sending to this group
550 5.7.1 <x@example.com>: Recipient address rejected: Access denied
550 5.7.1 Rejected by local policy
550 Message rejected due to user rules
550 5.7.1 Delivery not authorized, message refused
554 5.7.1 <sender@example.com>: Sender address rejected: Access denied
550 5.1.8 <sender@example.com>: Sender address rejected: Domain not found
450 4.1.8 <sender@example.com>: Sender address rejected: Domain not found
553 5.1.8 <sender@example.com>... Domain of sender address sender@example.com does not exist
550 Sender verify failed
550 5.7.1 you are not allowed to post to this mailing list
550 5.7.1 Administrative prohibition
550 Denied by policy
550 Envelope blocked - User Entry - https://community.mimecast.com/docs/DOC-1369#550
550 Administrative prohibition - envelope blocked - https://community.mimecast.com/docs/DOC-1369#550
550 you have been blocked by the recipient
550 5.7.1 Refused due to recipient preferences
550 5.7.1 The user or domain that you are sending to (or from) has a policy that prohibited the mail that you sent.
550 recipient is only accepting mail from specific email addresses
550 backscatter protection detected an invalid or expired email address
550 invalid sender
""",
    "relay_denied": """
554 5.7.1 <x@example.com>: Relay access denied
550 5.7.1 Unable to relay
550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain
550 5.7.1 Relaying denied
550 relay not permitted
553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)
550 5.7.64 TenantAttribution; Relay Access Denied
551 we do not relay
550 Relaying to <x@example.com> prohibited by administrator
550 5.7.1 x@example.com... Relaying denied. Proper authentication required.
550 relaying denied for <x@example.com>
554 Relay rejected for policy reasons: we do not relay for this domain
550 not local host example.com, not a gateway
""",
    "tls": """
550 5.7.30 REQUIRETLS needed
google|530-5.7.0 Must issue a STARTTLS command first.
421 4.7.0 TLS required
530 5.7.0 Must issue a STARTTLS command first
454 4.7.0 TLS not available due to local problem
450 4.7.1 TLS is required, but was not offered
403 4.7.0 TLS handshake failed.
""",
    "connection": """
451 4.4.4 Mail received as unauthenticated, incoming to a recipient domain configured in a hosted tenant which has no mail-enabled subscriptions. ATTR5
421 4.3.0 temporary system problem. Try again later
421 4.3.2 Service not available, closing transmission channel
451 4.3.0 Temporary lookup failure
421 4.4.2 mx.example.com Error: timeout exceeded
450 4.3.2 Service currently unavailable
451 4.3.5 Server configuration error
451 4.4.1 Connection timed out
452 4.3.1 Insufficient system storage
451 Temporary local problem - please try later
431 The recipient's mail server is experiencing a disk full condition
421 Service temporarily unavailable
451 4.7.0 Temporary server error. Please try again later. PRX2
451 4.3.2 Please try again later
451 4.4.3 Temporary server error
""",
    "protocol": """
500 5.5.1 Command unrecognized
503 5.5.1 Bad sequence of commands
554 5.6.0 Message not RFC compliant: missing Date header
550 5.6.0 Lone CR or LF in body (see RFC2822 section 2.3)
550 5.4.6 Hop count exceeded - possible mail loop
554 5.4.6 Too many hops
554 5.4.0 Error: too many hops
501 5.5.4 Invalid HELO name
google|550-5.7.1 [192.0.2.1] Messages missing a valid address in From: header, or having no From: header, are not accepted.
google|550-5.7.1 This message is not RFC 5322 compliant. To reduce the amount of spam sent to Gmail, this message has been blocked.
550 5.6.11 SMTPSEND.BareLinefeedsAreIllegal; message contains bare linefeeds
500 5.5.2 Error: command line too long
""",
}
ROWS = [
    (wanted, *(line.split("|", 1) if "|" in line.split(" ")[0] else ("other", line)))
    for wanted, lines in REPLIES.items()
    for line in lines.strip().splitlines()
]


def told(provider: str, reply: str) -> tuple[str, str]:
    code, enhanced = parse_reply(reply)
    found = built_in_classes().classify(code, enhanced, reply[4:].encode(), provider)
    return found.reply_class, found.rule.name if found.rule else ""


def test_real_replies_are_read_right() -> None:
    wrong = [(wanted, *told(provider, reply), provider, reply) for wanted, provider, reply in ROWS]
    wrong = [row for row in wrong if row[0] != row[1]]
    assert len(ROWS) > 300
    assert len(wrong) <= 0.03 * len(ROWS), "\n".join(map(str, wrong))


def test_nothing_real_is_unknown() -> None:
    assert [reply for _, provider, reply in ROWS if told(provider, reply)[0] == "other"] == []


@pytest.mark.parametrize("wanted", ["reputation_block", "rate", "greylist", "authentication", "tls", "relay_denied"])
def test_what_is_about_us_never_suppresses(wanted: str) -> None:
    for said, provider, reply in ROWS:
        if said == wanted:
            code, enhanced = parse_reply(reply)
            found = built_in_classes().classify(code, enhanced, reply[4:].encode(), provider)
            assert not found.against_recipient, reply
