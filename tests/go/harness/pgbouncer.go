package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Pooler is a private pgbouncer in transaction mode, without TLS and without passwords.
type Pooler struct {
	Port int
	dir  string
	proc *Process
}

// StartPooler puts a pgbouncer in front of what listens on |port|.
func StartPooler(port int) (*Pooler, error) {
	dir, err := TempDir("pgbouncer")
	if err != nil {
		return nil, err
	}
	x := &Pooler{dir: dir}
	if x.Port, err = FreePort(); err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`[databases]
* = host=127.0.0.1 port=%d user=drover
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 20
max_client_conn = 200
server_login_retry = 1
`, port, x.Port)
	if err := os.WriteFile(filepath.Join(dir, "pgbouncer.ini"), []byte(config), 0o644); err != nil {
		return nil, err
	}
	return x, x.Start()
}

// Start runs it, again if it was killed.
func (x *Pooler) Start() error {
	bin, err := exec.LookPath("pgbouncer")
	if err != nil {
		bin = "/usr/sbin/pgbouncer"
	}
	cred, err := unprivileged() // It refuses to run as root.
	if err != nil {
		return err
	}
	cmd := exec.Command(bin, filepath.Join(x.dir, "pgbouncer.ini"))
	cmd.Dir = x.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	x.proc, err = Start("pgbouncer", x.dir+".log", cmd)
	return err
}

// Kill is kill -9.
func (x *Pooler) Kill() { x.proc.Kill() }

// LogTail returns its last words.
func (x *Pooler) LogTail(lines int) string { return FileTail(x.dir+".log", lines) }

// URL is the datastore URL of a database behind the pooler.
func (x *Pooler) URL(database string) string {
	return fmt.Sprintf("postgres://drover@127.0.0.1:%d/%s", x.Port, database)
}
