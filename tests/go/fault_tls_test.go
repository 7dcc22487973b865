package tests

// Goal: drover speaks TLS to its database, and only to the one whose certificate it was told to trust.
// Method: a PostgreSQL with a certificate of a private authority; URLs that name the right one and
// wrong ones.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"drover/tests/harness"
)

// authority is a private certificate authority.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // Its certificate.
}

// sign makes a certificate for the owner of |key|.
func (a *authority) sign(template, parent *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, a.key)
	check(a.t, err == nil, "%v", err)
	return der
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err == nil, "%v", err)
	a := &authority{t: t, key: key}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der := a.sign(template, template, key)
	a.cert, err = x509.ParseCertificate(der)
	check(t, err == nil, "%v", err)
	dir, err := harness.TempDir("ca")
	check(t, err == nil, "%v", err)
	a.file = filepath.Join(dir, "ca.pem")
	check(t, os.WriteFile(a.file, pemOf("CERTIFICATE", der), 0o644) == nil, "write %s", a.file)
	return a
}

// server is a certificate and its key for a server at |address|.
func (a *authority) server(address string) (cert, key []byte) {
	a.t.Helper()
	pair, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(a.t, err == nil, "%v", err)
	der := a.sign(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "database"},
		IPAddresses: []net.IP{net.ParseIP(address)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
		a.cert, pair)
	secret, err := x509.MarshalPKCS8PrivateKey(pair)
	check(a.t, err == nil, "%v", err)
	return pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", secret)
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// startTLSPostgres is a server with a certificate for |address|.
func startTLSPostgres(t *testing.T, a *authority, address string) *harness.Postgres {
	t.Helper()
	pg, err := harness.StartPostgres()
	check(t, err == nil, "%v", err)
	t.Cleanup(pg.KillAll)
	cert, key := a.server(address)
	certFile, err := pg.WritePrivate("server.pem", cert)
	check(t, err == nil, "%v", err)
	keyFile, err := pg.WritePrivate("server.key", key)
	check(t, err == nil, "%v", err)
	check(t, pg.Stop() == nil, "stop PostgreSQL")
	pg.Extra = []string{"-c", "ssl=on", "-c", "ssl_cert_file=" + certFile, "-c", "ssl_key_file=" + keyFile}
	err = pg.Start()
	check(t, err == nil, "%v", err)
	return pg
}

func TestTLSToTheDatabase(t *testing.T) {
	needDrover(t)
	needPostgres(t)
	ours, other := newAuthority(t, "ours"), newAuthority(t, "another")
	pg := startTLSPostgres(t, ours, "127.0.0.1")
	database, err := pg.NewDatabase()
	check(t, err == nil, "%v", err)
	full := func(pg *harness.Postgres, a *authority) string {
		return fmt.Sprintf("%s?sslmode=verify-full&sslrootcert=%s", pg.URL(database), a.file)
	}
	t.Run("all sessions are encrypted", func(t *testing.T) {
		r, err := harness.StartDrover(harness.DroverOptions{Datastore: full(pg, ours)})
		check(t, err == nil, "%v", err)
		defer r.Kill()
		putAll(t, pb.NewKVClient(dial(t, r.Endpoint())), "tls", 100)
		out, err := pg.SQL(database, "SELECT count(*) > 2 AND bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"+
			" WHERE datname = current_database() AND application_name = 'drover'")
		check(t, err == nil && out == "t", "sessions: %s %v", out, err)
		check(t, r.Stop() == nil, "stop:\n%s", r.LogTail(5))
	})
	wrong := startTLSPostgres(t, ours, "192.0.2.1")
	_, err = wrong.SQL("postgres", "CREATE DATABASE "+database)
	check(t, err == nil, "%v", err)
	for _, c := range []struct{ name, url, word string }{
		{"another authority", full(pg, other), "certificate verify failed"},
		{"another server's certificate", full(wrong, ours), "does not match host name"},
		{"no such file", full(pg, &authority{file: "/nonexistent/ca.pem"}), "/nonexistent/ca.pem"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, err := harness.TempDir("tls")
			check(t, err == nil, "%v", err)
			text, exit := refused(t, c.url, dir)
			said := verdict(text)
			check(t, exit != 0 && strings.Contains(said, c.word) && !strings.Contains(said, "\n"), "exit %d:\n%s", exit, text)
			t.Logf("exit %d: %s", exit, said)
		})
	}
}
