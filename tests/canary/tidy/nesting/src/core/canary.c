/* Four levels in a function are enough; initializers do not count. */
int canary(int n)
{
    const int pairs[][2] = {{1, 2}, {3, 4}};
    while (n > 0) {
        for (;;) {
            if (n > pairs[0][0]) {
                do {
                    if (n == '{') {
                        n--;
                    }
                } while (n > 5);
            }
        }
    }
    return n;
}
