package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// DroverBin is the binary under test: DROVER_BIN, else build/drover of this checkout.
// The word "etcd" asks for embedded etcd in its place: the tests then prove themselves.
func DroverBin() string {
	if bin := os.Getenv("DROVER_BIN"); bin != "" {
		return bin
	}
	dir, err := os.Getwd()
	if err != nil {
		return "build/drover"
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "CMakeLists.txt")); err == nil {
			break
		}
	}
	return filepath.Join(dir, "build", "drover")
}

// SelfTest tells that etcd stands in for drover.
func SelfTest() bool { return os.Getenv("DROVER_BIN") == "etcd" }

// Replica is one running drover (or its stand-in): what it was started with, and how to reach it.
type Replica struct {
	Name      string
	Datastore string
	DataDir   string
	Port      int
	PeerPort  int // Of a stand-in.
	Extra     []string
	proc      *Process
	member    *Etcd
	etcdDir   string // Holds the etcd binary that stands in.
}

// DroverOptions say how to start one replica.
type DroverOptions struct {
	Name      string   // Default "n1".
	Datastore string   // URL; empty: drover's own default under DataDir.
	DataDir   string   // Default: a fresh folder.
	Port      int      // Default: a free one.
	Extra     []string // Further flags.
}

// LaunchDrover starts the process and does not wait for it to serve.
func LaunchDrover(o DroverOptions) (*Replica, error) {
	r := &Replica{Name: o.Name, Datastore: o.Datastore, DataDir: o.DataDir, Port: o.Port, Extra: o.Extra}
	if r.Name == "" {
		r.Name = "n1"
	}
	if r.DataDir == "" {
		dir, err := TempDir("drover-" + r.Name)
		if err != nil {
			return nil, err
		}
		r.DataDir = dir
	}
	if r.Port == 0 {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		r.Port = port
	}
	return r, r.launch()
}

// StartDrover starts a replica and waits until it serves a linearizable read.
func StartDrover(o DroverOptions) (*Replica, error) {
	r, err := LaunchDrover(o)
	if err != nil {
		return nil, err
	}
	if err := r.WaitReady(Patience); err != nil {
		r.Kill()
		return nil, err
	}
	return r, nil
}

func (r *Replica) launch() error {
	url := r.URL()
	args := []string{"serve", "--data-dir", r.DataDir, "--listen-client-urls", url,
		"--advertise-client-urls", url, "--name", r.Name, "--watch-progress-notify-interval", "5s"}
	if r.Datastore != "" {
		args = append(args, "--datastore", r.Datastore)
	}
	args = append(args, r.Extra...)
	bin := DroverBin()
	if SelfTest() && r.etcdDir == "" {
		r.etcdDir = os.Getenv("DROVER_TOOLS")
	}
	if r.etcdDir != "" {
		var err error
		if bin, args, err = r.standIn(); err != nil {
			return err
		}
	}
	proc, err := Start("drover "+r.Name, r.DataDir+".log", exec.Command(bin, args...))
	if err != nil {
		return err
	}
	r.proc = proc
	return nil
}

// StartEtcdProcess starts a single etcd as a process, from the binary in |tools|.
func StartEtcdProcess(tools string) (*Replica, error) {
	dir, err := TempDir("etcd-process")
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	r := &Replica{Name: "etcd", DataDir: dir, Port: port, etcdDir: tools}
	if err := r.launch(); err != nil {
		return nil, err
	}
	return r, r.WaitReady(Patience)
}

// standIn is an etcd of one member as a process, which can be killed as drover can.
func (r *Replica) standIn() (string, []string, error) {
	if r.PeerPort == 0 {
		var err error
		if r.PeerPort, err = FreePort(); err != nil {
			return "", nil, err
		}
	}
	url, peer := r.URL(), fmt.Sprintf("http://127.0.0.1:%d", r.PeerPort)
	return filepath.Join(r.etcdDir, "etcd"), []string{"--data-dir", r.DataDir, "--name", r.Name,
		"--listen-client-urls", url, "--advertise-client-urls", url, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", r.Name + "=" + peer,
		"--watch-progress-notify-interval", "5s"}, nil
}

// Endpoint is HOST:PORT.
func (r *Replica) Endpoint() string { return fmt.Sprintf("127.0.0.1:%d", r.Port) }

// URL is the client URL.
func (r *Replica) URL() string { return "http://" + r.Endpoint() }

// Process is nil for a stand-in.
func (r *Replica) Process() *Process { return r.proc }

// WaitReady waits until a linearizable read is answered, or the process ends. One try may take long:
// on a machine that is slow for everybody short tries would only add to the load.
func (r *Replica) WaitReady(timeout time.Duration) error {
	conn, err := DialStrict(r.Endpoint())
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline := time.Now().Add(timeout)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), timeout/4)
		_, err = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("ready?")})
		cancel()
		if err == nil {
			return nil
		}
		if r.proc != nil && !r.proc.Running() {
			return fmt.Errorf("%s ended at start-up:\n%s", r.Name, r.proc.LogTail(20))
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not serve after %v: %v\n%s", r.Name, timeout, err, r.LogTail(20))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// LogTail returns the last lines of the replica's output.
func (r *Replica) LogTail(lines int) string {
	if r.proc == nil {
		return ""
	}
	return r.proc.LogTail(lines)
}

// Kill is kill -9.
func (r *Replica) Kill() {
	if r.member != nil {
		r.member.Close()
		r.member = nil
		return
	}
	if r.proc != nil {
		r.proc.Kill()
	}
}

// Stop sends SIGTERM and wants exit status 0.
func (r *Replica) Stop() error {
	if r.proc == nil {
		r.Kill()
		return nil
	}
	if !r.proc.Running() {
		return fmt.Errorf("%s has ended before it was stopped:\n%s", r.Name, r.proc.LogTail(20))
	}
	r.proc.Signal(syscall.SIGTERM)
	status, err := r.proc.WaitExit(Patience)
	if err != nil {
		r.proc.Kill()
		return err
	}
	if status != 0 {
		return fmt.Errorf("%s exits with %d after SIGTERM:\n%s", r.Name, status, r.proc.LogTail(20))
	}
	return nil
}

// Restart starts an ended replica again, same data, same address, and waits until it serves.
func (r *Replica) Restart() error {
	if err := r.launch(); err != nil {
		return err
	}
	return r.WaitReady(Patience)
}
