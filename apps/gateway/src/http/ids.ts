/** Id of a key or an organization: a positive integer of Postgres, as the API writes it. */
export const isRowId = (text: string) => /^[1-9]\d{0,9}$/.test(text) && Number(text) < 2 ** 31;
