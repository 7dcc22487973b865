// Package harness starts and ends what the tests talk to: drover processes, private PostgreSQL
// servers and embedded etcd members. Everything listens on loopback and lives in one folder that
// Cleanup removes; processes are ended by their own ids.
package harness

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

var (
	rootOnce sync.Once
	rootDir  string
	rootErr  error

	liveMu sync.Mutex
	live   = map[*Process]struct{}{}

	portMu   sync.Mutex
	portUsed = map[int]struct{}{}
)

// Root is the folder below which all temporary data of this run lives. Other users may enter it,
// because a private PostgreSQL must not run as root. It is where DROVER_TEST_TMP says.
func Root() (string, error) {
	rootOnce.Do(func() {
		rootDir, rootErr = os.MkdirTemp(os.Getenv("DROVER_TEST_TMP"), "drover-tests-")
		if rootErr == nil {
			rootErr = os.Chmod(rootDir, 0o755)
		}
	})
	return rootDir, rootErr
}

// TempDir makes a fresh folder whose name starts with |name|.
func TempDir(name string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(root, name+"-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// Cleanup ends every process that still runs and removes all temporary data.
// DROVER_TEST_KEEP=1 keeps the data.
func Cleanup() {
	liveMu.Lock()
	rest := make([]*Process, 0, len(live))
	for p := range live {
		rest = append(rest, p)
	}
	liveMu.Unlock()
	for _, p := range rest {
		p.Kill()
	}
	stopPostgres()
	if rootDir == "" || os.Getenv("DROVER_TEST_KEEP") != "" {
		return
	}
	_ = os.RemoveAll(rootDir)
}

// FreePort returns a loopback TCP port that nobody listens on; never the same one twice.
func FreePort() (int, error) {
	portMu.Lock()
	defer portMu.Unlock()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		port := l.Addr().(*net.TCPAddr).Port
		_ = l.Close()
		if _, used := portUsed[port]; !used {
			portUsed[port] = struct{}{}
			return port, nil
		}
	}
	return 0, errors.New("no free port")
}

// Process is a child with its output in a file.
type Process struct {
	Name    string
	LogPath string
	cmd     *exec.Cmd
	done    chan struct{}
	waitErr error
}

// Start runs |cmd| with stdout and stderr in |logPath| (appended).
func Start(name, logPath string, cmd *exec.Cmd) (*Process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout = log
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p := &Process{Name: name, LogPath: logPath, cmd: cmd, done: make(chan struct{})}
	notePid(cmd.Process.Pid, cmd.Path)
	liveMu.Lock()
	live[p] = struct{}{}
	liveMu.Unlock()
	go func() {
		p.waitErr = cmd.Wait()
		liveMu.Lock()
		delete(live, p)
		liveMu.Unlock()
		close(p.done)
	}()
	return p, nil
}

// notePid tells run.sh which processes to end if this one dies without a chance to clean up.
func notePid(pid int, path string) {
	file := os.Getenv("DROVER_TEST_PIDS")
	if file == "" {
		return
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "%d %s\n", pid, filepath.Base(path))
}

func (p *Process) Pid() int              { return p.cmd.Process.Pid }
func (p *Process) Done() <-chan struct{} { return p.done }

// Running tells whether the process has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Signal sends |sig|; a process that is gone already is no error.
func (p *Process) Signal(sig syscall.Signal) {
	if p.Running() {
		_ = p.cmd.Process.Signal(sig)
	}
}

// Kill is kill -9 and waits for the end.
func (p *Process) Kill() {
	p.Signal(syscall.SIGCONT)
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// WaitExit waits for the end and returns the exit status (-1: by a signal).
func (p *Process) WaitExit(timeout time.Duration) (int, error) {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-time.After(timeout):
		return 0, fmt.Errorf("%s did not end within %v", p.Name, timeout)
	}
}

// LogTail returns the last lines of the output.
func (p *Process) LogTail(lines int) string {
	return FileTail(p.LogPath, lines)
}

// FileTail returns the last lines of a file.
func FileTail(path string, lines int) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	var tail []string
	sc := bufio.NewScanner(f)
	sc.Buffer(make([]byte, 1<<20), 1<<20)
	for sc.Scan() {
		tail = append(tail, sc.Text())
		if len(tail) > lines {
			tail = tail[1:]
		}
	}
	return strings.Join(tail, "\n")
}
