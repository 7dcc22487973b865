/* scripts/lint must refuse this file: a condition that does nothing. */
int canary(int number);

int canary(int number)
{
    if (number > 1);
    {
        number++;
    }
    return number;
}
