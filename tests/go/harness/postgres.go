package harness

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Postgres is a private PostgreSQL server: own data, loopback, trust, fsync as by default.
type Postgres struct {
	Dir   string
	Port  int
	Extra []string // Further arguments, from the next start on.
	proc  *Process
	dbs   int
	mu    sync.Mutex
}

var (
	sharedMu sync.Mutex
	shared   *Postgres
)

// SharedPostgres is the one server that tests share when they do not harm it.
func SharedPostgres() (*Postgres, error) {
	sharedMu.Lock()
	defer sharedMu.Unlock()
	if shared != nil {
		return shared, nil
	}
	p, err := StartPostgres()
	if err == nil {
		shared = p
	}
	return p, err
}

func stopPostgres() {
	sharedMu.Lock()
	defer sharedMu.Unlock()
	if shared != nil {
		shared.KillAll()
		shared = nil
	}
}

func postgresBin(name string) (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		return exec.LookPath(name)
	}
	sort.Strings(found)
	return found[len(found)-1], nil
}

// unprivileged returns the ids that a PostgreSQL server runs under, nil when we are not root.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("PostgreSQL does not run as root, and there is no user for it")
}

// StartPostgres makes a new server.
func StartPostgres() (*Postgres, error) {
	p, err := newPostgres()
	if err != nil {
		return nil, err
	}
	err = p.run("initdb", "-D", filepath.Join(p.Dir, "data"), "-U", "drover", "--auth=trust",
		"-E", "UTF8", "--locale=C", "--no-sync")
	if err != nil {
		return nil, err
	}
	return p, p.Start()
}

// StartStandby makes a hot standby of |p| that follows it under |name|.
func (p *Postgres) StartStandby(name string) (*Postgres, error) {
	s, err := newPostgres()
	if err != nil {
		return nil, err
	}
	source := fmt.Sprintf("host=127.0.0.1 port=%d user=drover application_name=%s", p.Port, name)
	err = s.run("pg_basebackup", "-D", filepath.Join(s.Dir, "data"), "-d", source, "-R", "-X", "stream",
		"-c", "fast", "--no-sync")
	if err != nil {
		return nil, err
	}
	return s, s.Start()
}

// newPostgres is a folder and a port, and nothing in it.
func newPostgres() (*Postgres, error) {
	dir, err := TempDir("postgres")
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	p := &Postgres{Dir: dir, Port: port}
	return p, p.own(dir)
}

// own makes the server's user the owner of a file.
func (p *Postgres) own(path string) error {
	cred, err := unprivileged()
	if err != nil || cred == nil {
		return err
	}
	return os.Chown(path, int(cred.Uid), int(cred.Gid))
}

// WritePrivate writes a file that only the server may read, and returns its path.
func (p *Postgres) WritePrivate(name string, content []byte) (string, error) {
	path := filepath.Join(p.Dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return "", err
	}
	return path, p.own(path)
}

// run runs one of PostgreSQL's tools as the server's user, to its end.
func (p *Postgres) run(tool string, args ...string) error {
	bin, err := postgresBin(tool)
	if err != nil {
		return err
	}
	cred, err := unprivileged()
	if err != nil {
		return err
	}
	cmd := exec.Command(bin, args...)
	cmd.Dir = p.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", tool, err, out)
	}
	return nil
}

// Start runs the server on its data and waits until it answers. Tries again while the remains of
// a killed one still hold its memory.
func (p *Postgres) Start() error {
	bin, err := postgresBin("postgres")
	if err != nil {
		return err
	}
	cred, err := unprivileged()
	if err != nil {
		return err
	}
	deadline := time.Now().Add(Patience)
	for {
		args := []string{"-D", filepath.Join(p.Dir, "data"), "-p", strconv.Itoa(p.Port),
			"-h", "127.0.0.1", "-k", p.Dir, "-c", "max_connections=200",
			"-c", "dynamic_shared_memory_type=mmap"} // Goes with the folder, also after kill -9.
		cmd := exec.Command(bin, append(args, p.Extra...)...)
		cmd.Dir = p.Dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
		p.proc, err = Start("postgres", p.Dir+".log", cmd)
		if err != nil {
			return err
		}
		for p.proc.Running() && time.Now().Before(deadline) {
			if _, err = p.SQL("postgres", "SELECT 1"); err == nil {
				return nil
			}
			time.Sleep(50 * time.Millisecond)
		}
		if time.Now().After(deadline) {
			p.KillAll()
			return fmt.Errorf("PostgreSQL does not start: %v\n%s", err, FileTail(p.Dir+".log", 20))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// KillAll is kill -9 of the server and all its processes.
func (p *Postgres) KillAll() {
	if p.proc == nil {
		return
	}
	pids := childrenOf(p.proc.Pid())
	p.proc.Kill()
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// Stop is a fast shutdown.
func (p *Postgres) Stop() error {
	p.proc.Signal(syscall.SIGINT)
	_, err := p.proc.WaitExit(Patience)
	return err
}

func childrenOf(parent int) []int {
	var pids []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// pid (comm) state ppid …; comm may hold anything, so look behind its last ')'.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			pid, _ := strconv.Atoi(strings.Fields(string(text))[0])
			pids = append(pids, pid)
		}
	}
	return pids
}

// NewDatabase makes an empty database and returns its name.
func (p *Postgres) NewDatabase() (string, error) {
	p.mu.Lock()
	p.dbs++
	name := fmt.Sprintf("drover%d", p.dbs)
	p.mu.Unlock()
	_, err := p.SQL("postgres", "CREATE DATABASE "+name)
	return name, err
}

// URL is the datastore URL of a database.
func (p *Postgres) URL(database string) string {
	return fmt.Sprintf("postgres://drover@127.0.0.1:%d/%s", p.Port, database)
}

// SQL runs one statement with psql and returns its rows, fields separated by '|'.
func (p *Postgres) SQL(database, statement string) (string, error) {
	cmd := exec.Command("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1",
		"-p", strconv.Itoa(p.Port), "-U", "drover", "-d", database, "-c", statement)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql: %w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}
