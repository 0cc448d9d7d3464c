/* TLS for source and sink, compiled in with -DWITH_TLS -lssl -lcrypto. The handshake blocks: connections are few and
 * reused. Reads and writes answer as read(2) and write(2) do, so that the callers need not know. Nothing is verified. */
#ifndef BENCH_TLS_H
#define BENCH_TLS_H
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>

enum { RECORD = 16384 };

/* A context: of a server with a PEM file of key and certificate, of a client without. */
static inline SSL_CTX *tls_context(const char *file)
{
    SSL_CTX *context = SSL_CTX_new(file ? TLS_server_method() : TLS_client_method());
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    if (file && (SSL_CTX_use_certificate_chain_file(context, file) != 1 ||
                 SSL_CTX_use_PrivateKey_file(context, file, SSL_FILETYPE_PEM) != 1)) {
        fprintf(stderr, "%s: no key and certificate\n", file);
        exit(2);
    }
    return context;
}

/* The handshake; NULL if it fails. */
static inline SSL *tls_begin(SSL_CTX *context, int fd, int server)
{
    SSL *ssl = SSL_new(context);
    int flags = fcntl(fd, F_GETFL);
    fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
    SSL_set_fd(ssl, fd);
    int done = server ? SSL_accept(ssl) : SSL_connect(ssl);
    fcntl(fd, F_SETFL, flags);
    if (done == 1) return ssl;
    ERR_print_errors_fp(stderr);
    SSL_free(ssl);
    return NULL;
}

static ssize_t tls_result(SSL *ssl, int n)
{
    if (n > 0) return n;
    int error = SSL_get_error(ssl, n);
    ERR_clear_error();
    if (error == SSL_ERROR_ZERO_RETURN) return 0;
    errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : EPIPE;
    return -1;
}

static inline ssize_t io_read(SSL *ssl, int fd, void *to, size_t length)
{
    return ssl ? tls_result(ssl, SSL_read(ssl, to, (int)length)) : read(fd, to, length);
}

static inline ssize_t io_write(SSL *ssl, int fd, const void *from, size_t length)
{
    return ssl ? tls_result(ssl, SSL_write(ssl, from, (int)(length > RECORD ? RECORD : length))) : write(fd, from, length);
}

/* As writev(2); under TLS one record at a time. */
static inline ssize_t io_writev(SSL *ssl, int fd, const struct iovec *pieces, int count)
{
    static char record[RECORD];
    size_t length = 0;
    if (!ssl) return writev(fd, pieces, count);
    for (int i = 0; i < count && length < RECORD; i++) {
        size_t part = pieces[i].iov_len < RECORD - length ? pieces[i].iov_len : RECORD - length;
        __builtin_memcpy(record + length, pieces[i].iov_base, part);
        length += part;
    }
    return tls_result(ssl, SSL_write(ssl, record, (int)length));
}

/* Octets that were read from the socket and not yet taken: no event will tell of them. */
static inline int io_pending(SSL *ssl) { return ssl ? SSL_pending(ssl) : 0; }
static inline void io_free(SSL *ssl) { if (ssl) SSL_free(ssl); }
#else
typedef void SSL;
#define io_read(ssl, fd, to, length) read(fd, to, length)
#define io_write(ssl, fd, from, length) write(fd, from, length)
#define io_writev(ssl, fd, pieces, count) writev(fd, pieces, count)
#define io_pending(ssl) 0
#define io_free(ssl) ((void)0)
#endif
#endif
